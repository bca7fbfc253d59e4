"""Device time of engines, on timelines with a known answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from tests.accounting.cases import ENGINE, STEP_NS, in_engine, member, span, step, trace
from vllm_codesign import semconv as S
from vllm_codesign.accounting import Timeline, Work, fleet, timelines
from vllm_codesign.model.step import ConnectorCall
from vllm_codesign.model.trace import RequestTrace


def served() -> RequestTrace:
    """A request that is tokenized for 100 ns, on its way for 20, and served by one step."""
    return trace(
        880,
        1000 + STEP_NS + 50,
        span(S.TOKENIZE_ENCODE.name, 880, 980),
        span(S.ENGINE_DISPATCH.name, 980, 1000),
        in_engine(S.PREFILL.name, 1000, 1000 + STEP_NS),
    )


def work_of(*traces: RequestTrace) -> Work:
    work = Work()
    for each in traces:
        work.take(each)
    return work


def test_every_cause_has_its_time() -> None:
    found = fleet(work_of(served()), timelines([step(1, 1000, members=(member(),))]))
    (engine,) = found.engines
    assert (engine.busy_ns, engine.steps, engine.hidden_ns) == (60, 1, 0)
    assert engine.idle_ns == {
        "prepare": 5,
        "schedule": 10,
        "update": 6,
        "ipc": 20 + 5 + 3 + 4,
        "frontend": 100,
        "no_work": 50,  # being answered needs no device
    }
    assert engine.exposed_ns == 153
    assert found.speed_up == (60 + 153) / 60


def test_a_load_comes_before_what_the_host_does_meanwhile() -> None:
    """15 ns of it while the device works: those are busy. The step's worker prepares at 1015."""
    load = in_engine(S.KV_LOAD.name, 1005, 1035)
    request = served()
    request = replace(request, children=(*request.children, load))
    found = fleet(work_of(request), timelines([step(1, 1000, members=(member(),))]))
    (engine,) = found.engines
    assert engine.busy_ns == 60
    assert engine.idle_ns["kv_load"] == 15  # of it schedule 5, reach 5, prepare 5
    assert engine.idle_ns["schedule"] == 5
    assert "prepare" not in engine.idle_ns
    assert sum(engine.idle_ns.values()) + 60 == engine.window_ns
    assert engine.exposed_ns == 153 - 15


@pytest.mark.parametrize("work", ["load", "save"])
@pytest.mark.parametrize(("source", "busy"), [("wall", 60 - 20), ("events", 60)])
def test_a_transfer_within_host_time_is_not_the_devices(
    work: Literal["load", "save"], source: str, busy: int
) -> None:
    made = step(1, 1000, members=(member(),))
    (rank,) = made.ranks
    model, sample = (replace(d, source=source) for d in rank.device)
    call = ConnectorCall(work, model.end_ns - 30, model.end_ns - 10)
    moving = replace(made, ranks=(replace(rank, device=(model, sample), connector=(call,)),))
    (engine,) = fleet(work_of(served()), timelines([moving])).engines
    assert engine.busy_ns == busy
    assert engine.idle_ns.get("other", 0) + engine.busy_ns + engine.idle_ns["ipc"] == 60 + 32


def test_an_engine_that_no_request_is_for_has_no_work() -> None:
    idle = ENGINE + 1
    engines = timelines([step(1, 1000, members=(member(),))]) | {idle: Timeline(idle)}
    found = {e.engine: e for e in fleet(work_of(served()), engines).engines}
    assert found[idle].busy_ns == 0
    # Until it is handed on nobody knows for which of them it is.
    assert found[idle].idle_ns == {"frontend": 100, "ipc": 20, "no_work": STEP_NS + 50}


def test_two_ranks_are_one_device() -> None:
    both = step(1, 1000, members=(member(),), ranks=2)
    (engine,) = fleet(work_of(served()), timelines([both])).engines
    assert engine.busy_ns == 60


def test_a_late_rank_adds_what_it_is_late() -> None:
    both = step(1, 1000, members=(member(),), ranks=2)
    first, second = both.ranks
    late = replace(second, device=tuple(replace(d, end_ns=d.end_ns + 2) for d in second.device))
    (engine,) = fleet(work_of(served()), timelines([replace(both, ranks=(first, late))])).engines
    assert engine.busy_ns == 64


def test_without_device_times_nobody_says_that_it_was_idle_for_a_cause() -> None:
    """A device clock that has not told: late, lost, or a device that hangs."""
    one = step(1, 1000, members=(member(),))
    silent = replace(one, ranks=tuple(replace(r, device=()) for r in one.ranks))
    (engine,) = fleet(work_of(served()), timelines([silent])).engines
    assert engine.busy_ns == 0
    assert engine.idle_ns["other"] == STEP_NS - 10 - 6
    assert "prepare" not in engine.idle_ns
