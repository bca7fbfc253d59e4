"""Records what a real Prometheus answers to every query of every panel, over a run of a real vLLM.

    python -m docs.pictures.record

By hand, on two cores: 12 min, of which the last 8 are recorded. Needs vLLM (`make setup`) and
Debian's `prometheus`; writes `docs/pictures/recording.json`, from which `make docs` draws.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from docs.pictures.recording import COMMAND, FILE, Recording, Series, text
from tests.support import observed
from tests.support.mixed_load import send_all
from tests.support.observed import NO_DATA, NO_DATA_QUERIES, Observed
from tests.support.panels import Asked, promql
from tests.support.prometheus import Prometheus
from vllm_codesign.bench.placement import Roles, place_roles
from vllm_codesign.bench.server import say
from vllm_codesign.model.errors import CodesignError

SCRAPE_S = 2.0
"""A machine of two cores that are busy does not answer within one second every time."""
STEP_S = 10.0
INSTANTS = 49
RATE_S = max(STEP_S + SCRAPE_S, 4 * SCRAPE_S)
"""What Grafana makes of `$__rate_interval` for such a step and such an interval of scrapes."""
LOAD = ((30, 0), (90, 2), (120, 6), (120, 12), (60, 3))
"""Seconds, and how many clients send then; at rest for what is left of the time recorded."""
DIGITS = 4
"""Significant ones: a panel is not 10,000 pixels high."""


def record(running: Observed) -> Recording:
    """Load the server, then ask. Raises CodesignError where a panel is empty for no good reason."""
    observed.send(running.serving, observed.load(24, seed=1))
    start_s = float(int(time.time()))
    sent = drive(running.serving.url, start_s)
    end_s = start_s + STEP_S * (INSTANTS - 1)
    time.sleep(max(0.0, end_s + 2 * SCRAPE_S - time.time()))
    say(f"{sent} requests sent; asking")
    server = running.prometheus
    asked = [*promql()]
    answers = {each.expr: _answer(server, each, start_s, end_s) for each in asked}
    return Recording(
        about=f"vLLM {version('vllm')} on 2 cores without a GPU, {sent} requests; "
        f"Prometheus {server.version()}",
        load=told(LOAD),
        started=time.strftime("%Y-%m-%d %H:%M", time.gmtime(start_s)),
        step_s=STEP_S,
        instants=INSTANTS,
        rate_s=RATE_S,
        answers=answers,
        exemplars={
            each.expr: _exemplars(server, each, start_s, end_s) for each in asked if each.exemplars
        },
        no_data=_reasons([each for each in asked if not answers[each.expr]]),
    )


def told(load: Sequence[tuple[int, int]]) -> str:
    """The load in words; times are minutes and seconds since the first instant."""
    parts, at = [], 0
    for seconds, clients in load:
        parts.append(f"{clients or 'none'} from {at // 60}:{at % 60:02}")
        at += seconds
    return f"clients: {', '.join(parts)}, none from {at // 60}:{at % 60:02}"


def drive(url: str, start_s: float) -> int:
    """Send as `LOAD` has it; how many requests were sent."""
    count, until_s = 0, start_s
    for seconds, clients in LOAD:
        until_s += seconds
        while clients and time.time() < until_s:
            batch = observed.load(4 * clients, seed=100 + count)
            asyncio.run(send_all(url, batch, clients))
            count += len(batch)
        time.sleep(max(0.0, until_s - time.time()))
        say(f"{clients} clients until {until_s - start_s:.0f} s: {count} requests")
    return count


def _answer(server: Prometheus, asked: Asked, start_s: float, end_s: float) -> tuple[Series, ...]:
    """As Grafana asks: at the end of the time shown for a single figure, else over that time."""
    if "$__range" in asked.expr:
        found = server.value(asked.filled(f"{end_s - start_s:.0f}s"), end_s)
        return tuple(Series(dict(labels), (_rounded(value),)) for labels, value in found.items())
    series = server.over(asked.filled(f"{RATE_S:.0f}s"), start_s, end_s, STEP_S)
    instants = [start_s + n * STEP_S for n in range(INSTANTS)]
    return tuple(
        Series(
            dict(labels), tuple(_rounded(values[at]) if at in values else None for at in instants)
        )
        for labels, values in series.items()
        if values
    )


def _exemplars(
    server: Prometheus, asked: Asked, start_s: float, end_s: float
) -> tuple[tuple[float, float], ...]:
    """The slowest of each step: Grafana thins them out as well."""
    found: dict[int, tuple[float, float]] = {}
    for each in server.exemplars(asked.filled(f"{RATE_S:.0f}s"), start_s, end_s):
        at, value = round(float(each["timestamp"]) - start_s, 1), _rounded(float(each["value"]))
        step = int(at / STEP_S)
        found[step] = max(found.get(step, (at, value)), (at, value), key=lambda dot: dot[1])
    return tuple(found[step] for step in sorted(found))


def _rounded(value: float) -> float:
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded == int(rounded) else rounded


def _reasons(empty: Sequence[Asked]) -> dict[str, str]:
    found, unknown = {}, []
    for each in empty:
        reason = NO_DATA.get(each.panel) or NO_DATA_QUERIES.get(each.name)
        if reason is None:
            unknown.append(each.name)
        else:
            found[each.expr] = reason
    if unknown:
        raise CodesignError(
            f"no data for {'; '.join(unknown)}: mend the query or the load, or give the reason in "
            "tests/support/observed.py"
        )
    return found


def main() -> int:
    """Write the file; what is wrong is one line on stderr."""
    try:
        if importlib.util.find_spec("vllm") is None:
            raise CodesignError(
                f"vLLM is not installed: run `make setup`, then .venv/bin/{COMMAND}"
            )
        if shutil.which("prometheus") is None:
            raise CodesignError(
                "no prometheus here: apt-get install prometheus (no service needed)"
            )
        with (
            tempfile.TemporaryDirectory() as folder,
            observed.observed(Path(folder), f"{SCRAPE_S * 1000:.0f}ms") as running,
        ):
            # They spin while they wait: on two cores nobody would come to be scraped in time.
            place_roles(running.serving.server.pid, Roles(nice={"engine_core": 19, "worker": 19}))
            recording = record(running)
    except CodesignError as error:
        print(f"codesign: {error}", file=sys.stderr)
        return 1
    FILE.write_text(text(recording), encoding="utf-8")
    series = sum(map(len, recording.answers.values()))
    say(f"{len(recording.answers)} queries, {series} series in {FILE}: now `make docs`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
