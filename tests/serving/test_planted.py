"""Causes planted into a real server are found, where they are exposed and where they are hidden."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.intervals import Stretch, both, length, union, without
from tests.support.mixed_load import Sent, make_requests, send_all
from tests.support.plugin import ASYNC_ON_CPU, SLEEPING, install
from tests.support.serving import Serving, serve
from vllm_codesign import semconv as S
from vllm_codesign.accounting import Fleet, Work, fleet, timelines
from vllm_codesign.analysis.accounts import recorded
from vllm_codesign.model.trace import RequestTrace, Span
from vllm_codesign.semconv import IdleCause, Part
from vllm_codesign.store.reader import read_steps

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

SCHEDULE_S = 0.003
FORWARD_S = 0.012
TOKENIZER_S = 0.050


@contextmanager
def planted(folder: Path, plugins: dict[str, str], **sleeps: float) -> Iterator[Serving]:
    path = install(folder / "plugin", plugins)
    env = {"VLLM_PLUGINS": ",".join(["codesign", *plugins]), "PYTHONPATH": path}
    env |= {name: str(seconds) for name, seconds in sleeps.items()}
    with serve(folder, env=env) as serving:
        yield serving


def load(serving: Serving, clients: int, seed: int, count: int = 0) -> list[RequestTrace]:
    """Completed streams of one choice from this many clients."""
    wanted = count or 6 * clients
    found: list[Sent] = [
        r for r in make_requests(serving.model, 6 * wanted, seed=seed) if r.kind == "stream"
    ][:wanted]
    assert len(found) == wanted
    asyncio.run(send_all(serving.url, found, clients=clients))
    traces = serving.traces([r.trace_id for r in found])
    return [traces.one(r.trace_id) for r in found]


def of_fleet(serving: Serving, traces: list[RequestTrace]) -> Fleet:
    work = Work()
    for trace in traces:
        work.take(trace)
    return fleet(work, timelines(read_steps(serving.capture)))


@dataclass(frozen=True)
class Timed:
    """What the records say of a load, without the accounting: unions of intervals."""

    here: list[Stretch]
    """Some request of the load was in the engine."""
    window: list[Stretch]
    """From the first one's beginning to the last one's end."""
    device: list[Stretch]
    prepare: list[Stretch]
    """A worker had its batch and did not run the model yet."""
    schedule: list[Stretch]
    host: list[Stretch]
    """EngineCore or a worker did something for a step: all of these and the rest."""


def timed(serving: Serving, traces: list[RequestTrace]) -> Timed:
    def monotonic(trace: RequestTrace, span: Span) -> Stretch:
        shift = int(trace.root.attributes[S.MONOTONIC.key]) - trace.root.start_ns  # type: ignore[arg-type]
        return span.start_ns + shift, span.end_ns + shift

    in_engine = (S.ENGINE_QUEUE.name, S.PREFILL.name, S.DECODE.name)
    here = [monotonic(t, span) for t in traces for span in t.children if span.name in in_engine]
    whole = [monotonic(t, t.root) for t in traces]
    steps = list(read_steps(serving.capture))
    ranks = [rank for step in steps for rank in step.ranks]
    assert all(step.update and step.ranks for step in steps[:-1]), "records are missing"
    prepare = [(r.execute[0], r.forward[0]) for r in ranks if r.execute and r.forward]
    schedule = [step.schedule for step in steps]
    rest = [step.update for step in steps if step.update]
    rest += [(step.schedule[0] - step.before_ns, step.schedule[0]) for step in steps]
    return Timed(
        union(here),
        [(min(a for a, _ in whole), max(b for _, b in whole))],
        union((d.start_ns, d.end_ns) for rank in ranks for d in rank.device),
        union(prepare),
        union(schedule),
        union([*prepare, *schedule, *rest]),
    )


def steps_of(trace: RequestTrace) -> int:
    spans = (*trace.named(S.PREFILL.name), *trace.named(S.DECODE.name))
    return sum(int(span.attributes.get(S.STEP_COUNT.key, 0)) for span in spans)  # type: ignore[arg-type]


def per_step_ms(traces: list[RequestTrace], part: Part) -> float:
    steps = sum(map(steps_of, traces))
    return sum((recorded(t) or {}).get(part.value, 0) for t in traces) / steps / 1e6


def test_a_slow_schedule_is_idle_by_schedule_and_exposed(tmp_path: Path) -> None:
    with planted(tmp_path, {"sleeping": SLEEPING}, SLEEP_IN_SCHEDULE=SCHEDULE_S) as serving:
        traces = load(serving, 4, seed=1)
        total = of_fleet(serving, traces)
    ms = per_step_ms(traces, Part.GAP_SCHEDULE)
    idle = total.idle_ns[IdleCause.SCHEDULE.value]
    print(f"schedule() sleeps 3 ms: gap.schedule {ms:.3f} ms a step; fleet idle {total.idle_ns}")
    assert SCHEDULE_S * 1e3 <= ms < SCHEDULE_S * 1e3 + 1.0
    engine = total.engines[0]
    assert idle >= 0.95 * SCHEDULE_S * 1e9 * engine.steps
    work = {c: ns for c, ns in total.idle_ns.items() if c != IdleCause.NO_WORK.value}
    assert max(work, key=lambda cause: work[cause]) == IdleCause.SCHEDULE.value
    worst = [t.root.attributes[S.BOTTLENECK.key] for t in traces]
    assert worst.count(Part.GAP_SCHEDULE.value) > len(worst) / 2, worst


def test_the_same_schedule_is_hidden_behind_a_longer_forward(tmp_path: Path) -> None:
    """Asynchronous scheduling: the next step is planned while the device works on this one."""
    with planted(
        tmp_path,
        {"sleeping": SLEEPING, "async_on_cpu": ASYNC_ON_CPU},
        SLEEP_IN_SCHEDULE=SCHEDULE_S,
        SLEEP_IN_FORWARD=FORWARD_S,
    ) as serving:
        traces = load(serving, 4, seed=2)
        total = of_fleet(serving, traces)
        found = timed(serving, traces)
    planned = both(found.schedule, found.here)
    hidden = length(both(planned, found.device))
    preparing = length(both(planned, found.prepare)) - length(
        both(both(planned, found.prepare), found.device)
    )
    exposed = without(planned, union([*found.device, *found.prepare]))
    ms = per_step_ms(traces, Part.GAP_SCHEDULE)
    print(
        f"schedule() sleeps 3 ms beside a forward of 12 ms: {length(planned) / 1e6:.1f} ms in "
        f"{total.engines[0].steps} steps, of it {hidden / 1e6:.1f} behind the device, "
        f"{preparing / 1e6:.1f} while a worker prepared, {exposed / 1e6:.1f} exposed "
        f"({ms:.3f} ms a step of a request); idle {total.idle_ns}, hidden {total.hidden_ns}"
    )
    # The sleep is there, and all of it has a name.
    asleep = SCHEDULE_S * 1e9 * total.engines[0].steps
    assert length(found.schedule) >= asleep
    assert hidden + preparing + exposed == length(planned)
    # What the accounting says of it is what the records say, to the nanosecond.
    assert total.idle_ns.get(IdleCause.SCHEDULE.value, 0) == exposed
    busy = both(found.device, found.window)
    assert total.busy_ns == length(busy)
    assert total.hidden_ns == length(both(busy, found.host))
    # The device covers what of schedule() does not pass while the worker prepares its step.
    assert exposed < 0.02 * length(planned)
    assert ms < 0.1
    assert hidden > length(planned) / 2


def test_a_slow_tokenizer_idles_the_device_at_low_concurrency_only(tmp_path: Path) -> None:
    with planted(tmp_path, {"sleeping": SLEEPING}, SLEEP_IN_TOKENIZER=TOKENIZER_S) as serving:
        alone = load(serving, 1, seed=3, count=12)
        many = load(serving, 16, seed=4, count=96)
        idle = {}
        for name, traces in (("alone", alone), ("many", many)):
            total = of_fleet(serving, traces)
            work = total.busy_ns + total.exposed_ns
            idle[name] = total.idle_ns.get(IdleCause.FRONTEND.value, 0) / work
            frontend = sum(
                (recorded(t) or {}).get(p.value, 0)
                for t in traces
                for p in (Part.FRONTEND_CPU, Part.FRONTEND_WAIT)
            ) / len(traces)
            print(
                f"{name}: frontend {frontend / 1e6:.1f} ms a request, device idle by frontend "
                f"{100 * idle[name]:.1f} % of the time with work; {total.idle_ns}"
            )
            assert frontend >= TOKENIZER_S * 1e9
    assert idle["alone"] > 0.2
    assert idle["many"] < idle["alone"] / 3
