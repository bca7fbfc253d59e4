"""Causes planted into a real server are found, where they are exposed and where they are hidden."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.by_hand import by_hand, device_of, monotonic, whole
from tests.support.intervals import Stretch, both, length, union, without
from tests.support.mixed_load import Sent, make_requests, send_all
from tests.support.plugin import ASYNC_ON_CPU, SLEEPING, install
from tests.support.serving import Serving, serve
from vllm_codesign import semconv as S
from vllm_codesign.accounting import Fleet, Work, fleet, timelines
from vllm_codesign.analysis.accounts import recorded
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace
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


def steps_in(serving: Serving, traces: list[RequestTrace]) -> list[Step]:
    """The engine's steps in order; none of those while the load was there lacks a record."""
    steps = sorted(read_steps(serving.capture), key=lambda step: step.number)
    ((start, end),) = span_of(traces)
    assert all(whole(s) for s in steps if s.end_ns > start and s.schedule[0] < end)
    return steps


def span_of(traces: list[RequestTrace]) -> list[Stretch]:
    roots = [monotonic(t, t.root) for t in traces]
    return [(min(a for a, _ in roots), max(b for _, b in roots))]


def timed(steps: list[Step], traces: list[RequestTrace]) -> Timed:
    in_engine = (S.ENGINE_QUEUE.name, S.PREFILL.name, S.DECODE.name)
    here = [monotonic(t, span) for t in traces for span in t.children if span.name in in_engine]
    ranks = [rank for step in steps for rank in step.ranks]
    prepare = [(r.execute[0], r.forward[0]) for r in ranks if r.execute and r.forward]
    schedule = [step.schedule for step in steps]
    rest = [step.update for step in steps if step.update]
    rest += [(step.schedule[0] - step.before_ns, step.schedule[0]) for step in steps]
    return Timed(
        union(here),
        span_of(traces),
        device_of(steps),
        union(prepare),
        union(schedule),
        union([*prepare, *schedule, *rest]),
    )


@dataclass(frozen=True)
class Planned:
    """Where the time of one step's `schedule()` passed; these sum to it."""

    behind_device: int
    preparing: int
    """The device was idle, and a worker prepared the step before: that cause comes first."""
    exposed: int
    alone: int
    """Likewise, with none of the load's requests in the engine."""
    in_flight: bool
    """The step before was dispatched, and its result had not been asked for."""
    late: int
    """Then, of all of it: the device had begun on the step before, and was idle again."""

    @property
    def total(self) -> int:
        return self.behind_device + self.preparing + self.exposed + self.alone


def _taken_back(step: Step) -> int:
    assert step.update
    return step.update[0]


def planned(steps: list[Step], found: Timed) -> list[Planned]:
    """Of each step while the load was there, one after the other."""
    rows = []
    for before, step in pairwise([None, *steps]):
        assert step
        if not both([step.schedule], found.window):
            continue
        mine = [step.schedule]
        behind = both(mine, found.device)
        covered = length(behind)
        prepared = without(both(mine, found.prepare), found.device)
        idle = length(mine) - length(both(mine, union([*found.device, *found.prepare])))
        here = both(mine, found.here)
        exposed = without(here, union([*found.device, *found.prepare]))
        late = 0
        in_flight = before is not None and _taken_back(before) >= step.schedule[1]
        if before is not None and in_flight:
            began = min(d.start_ns for rank in before.ranks for d in rank.device)
            after = both(mine, [(began, max(began, step.schedule[1]))])
            late = without(after, found.device)
        rows.append(Planned(covered, prepared, exposed, idle - exposed, in_flight, late))
        assert rows[-1].total == length(mine)
    return rows


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
        steps = steps_in(serving, traces)
    found = timed(steps, traces)
    rows = planned(steps, found)
    sleep = SCHEDULE_S * 1e9
    hidden, preparing, exposed, alone, late = (
        sum(getattr(row, name) for row in rows)
        for name in ("behind_device", "preparing", "exposed", "alone", "late")
    )
    first = sum(not row.in_flight for row in rows)
    ms = per_step_ms(traces, Part.GAP_SCHEDULE)
    print(
        f"schedule() sleeps 3 ms beside a forward of 12 ms, ms a step of {len(rows)} "
        f"({first} of them with none in flight): "
        f"{sum(row.total for row in rows) / len(rows) / 1e6:.3f} in all, "
        f"{hidden / len(rows) / 1e6:.3f} behind the device, {preparing / len(rows) / 1e6:.3f} "
        f"while a worker prepared, {exposed / len(rows) / 1e6:.4f} exposed, "
        f"{alone / len(rows) / 1e6:.4f} with no request there; {late / len(rows) / 1e6:.4f} "
        f"uncovered though the device had begun on the step before; gap.schedule {ms:.4f} a step "
        f"of a request; idle {total.idle_ns}, hidden {total.hidden_ns}"
    )
    # The sleep is there in every step, and the device has longer to work than that.
    assert all(row.total >= sleep for row in rows)
    models = [d for s in steps for r in s.ranks for d in r.device if d.work == "model"]
    assert min(d.end_ns - d.start_ns for d in models) >= FORWARD_S * 1e9 > sleep
    # The throughput view says what the records say, to the nanosecond.
    assert total.idle_ns.get(IdleCause.SCHEDULE.value, 0) == exposed
    busy = both(found.device, found.window)
    assert total.busy_ns == length(busy)
    assert total.hidden_ns == length(both(busy, found.host))
    # So does the latency view, request by request.
    for trace in traces:
        hand = by_hand(trace, steps)
        parts = recorded(trace) or {}
        assert trace.root.attributes[S.HOST_HIDDEN.key] == hand.hidden
        for cause, ns in hand.gaps.items():
            assert parts.get(f"device.gap.{cause}", 0) == ns, cause
        assert parts.get(Part.QUEUE_CAPACITY.value, 0) == hand.capacity
        assert parts.get(Part.QUEUE_HOST.value, 0) == hand.host
    # The device covers schedule() from when it has begun on the step before: what it does not
    # cover is the worker's preparing that step, and a plan with no step to hide behind.
    unhidden = sum(row.exposed for row in rows if row.in_flight)
    assert unhidden < 0.02 * sleep * len(rows)
    assert exposed - unhidden <= first * max(row.total for row in rows)
    assert first <= 0.1 * len(rows)
    assert late < 0.02 * sleep * len(rows)
    assert exposed < 0.05 * sleep * len(rows)
    assert ms < 0.05 * SCHEDULE_S * 1e3
    assert hidden > 0.5 * sleep * len(rows)


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
