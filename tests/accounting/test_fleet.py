"""Device time of engines, on timelines with a known answer."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Literal

import pytest

from tests.accounting.cases import ENGINE, STEP_NS, in_engine, load, member, span, step, trace
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


def test_a_load_that_a_step_waits_for_comes_before_what_the_host_does_meanwhile() -> None:
    """15 ns of it while the device works: those are busy. The step's worker prepares at 1015."""
    request = served()
    request = replace(request, children=(*request.children, load(1005, 1035, False)))
    found = fleet(work_of(request), timelines([step(1, 1000, members=(member(),))]))
    (engine,) = found.engines
    assert engine.busy_ns == 60
    assert engine.idle_ns["kv_load"] == 15  # of it schedule 5, reach 5, prepare 5
    assert engine.idle_ns["schedule"] == 5
    assert "prepare" not in engine.idle_ns
    assert sum(engine.idle_ns.values()) + 60 == engine.window_ns
    assert engine.exposed_ns == 153 - 15


def loading(start: int, end: int) -> RequestTrace:
    """A second request: it waits for an asynchronous load from `start` to `end`."""
    waits = in_engine(S.ENGINE_QUEUE.name, start - 2, end + 1, request="r2")
    return trace(start - 2, end + 1, waits, load(start, end, True, "r2"))


def test_a_load_in_the_background_of_others_is_no_cause() -> None:
    """The engine has a request to run: why its device is idle is the host's."""
    timeline = timelines([step(1, 1000, members=(member(),))])
    alone, both = (
        fleet(work_of(*traces), timeline, window=(880, 1093)).engines[0]
        for traces in ((served(),), (served(), loading(1002, 1090)))
    )
    assert both == alone
    assert "kv_load" not in both.idle_ns


def test_a_load_that_nobody_runs_beside_is_the_cause() -> None:
    """EngineCore plans empty steps meanwhile, which are not recorded: all of it lies between the
    last step's end and the next one's plan."""
    first = step(1, 1000, members=(member(),))
    begin, end = 1000 + STEP_NS, 1400
    after = step(2, end + 5, before=end + 5 - begin, members=(member(request="r2"),))
    second = loading(begin - 4, end)
    (before, wait), (until, _) = (begin, end), (end + 5, 0)
    children = (
        *second.children,
        in_engine(S.ENGINE_QUEUE.name, wait, until, request="r2"),
        in_engine(S.PREFILL.name, until, until + STEP_NS, request="r2"),
    )
    work = work_of(served(), replace(second, children=children))
    (engine,) = fleet(work, timelines([first, after]), window=(begin - 10, until)).engines
    assert engine.idle_ns == {
        "ipc": 4,  # the first step's result is on its way, and taken back: a request ran
        "update": 6,
        "kv_load": end - before,
        "output": 5,
    }
    assert engine.exposed_ns == 15


def test_a_steps_own_causes_come_before_a_load_beside_it() -> None:
    """The running request has its last token: the host still deals with its step."""
    taken = 1000 + STEP_NS - 6
    request = served()
    children = [c for c in request.children if c.name != S.PREFILL.name]
    short = in_engine(S.PREFILL.name, 1000, taken - 4)
    work = work_of(replace(request, children=(*children, short)), loading(1020, 1100))
    timeline = timelines([step(1, 1000, members=(member(),))])
    (engine,) = fleet(work, timeline, window=(1000, 1100)).engines
    assert (engine.idle_ns["ipc"], engine.idle_ns["update"]) == (5 + 3 + 4, 6)
    assert engine.idle_ns["kv_load"] == 1100 - 1000 - STEP_NS


def test_a_preempted_request_does_not_run_beside_its_own_load() -> None:
    """Its decode spans the whole: only while it loads, nothing of it can run."""
    request = trace(
        1000, 1300, in_engine(S.DECODE.name, 1000, 1300), load(1000 + STEP_NS, 1200, True)
    )
    again = step(2, 1200, before=1200 - 1000 - STEP_NS, members=(member(),))
    timeline = timelines([step(1, 1000, members=(member(),)), again])
    (engine,) = fleet(work_of(request), timeline, window=(1000 + STEP_NS, 1200)).engines
    assert engine.idle_ns == {"kv_load": 200 - STEP_NS}
    sibling = in_engine(S.DECODE.name, 1000, 1300, request="r2")
    beside = replace(request, children=(*request.children, sibling))
    (engine,) = fleet(work_of(beside), timeline, window=(1000 + STEP_NS, 1200)).engines
    assert engine.idle_ns == {"output": 200 - STEP_NS}


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


def test_adding_and_cutting_forget_no_kind_of_work() -> None:
    def work(*stretches: tuple[int, int]) -> Work:
        made = Work()
        for each in fields(Work):
            kind = getattr(made, each.name)
            if isinstance(kind, dict):
                kind[7] = [*stretches]
            else:
                kind += stretches
        return made

    total = work((0, 10))
    total.add(work((10, 20), (20, 30)))
    assert total == work((0, 10), (10, 20), (20, 30))
    assert total.since(10) == work((10, 20), (20, 30))
    assert total == work((0, 10), (10, 20), (20, 30))
