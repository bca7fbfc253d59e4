"""Rounds, their order, the deadline, and results that are not what they should be."""

from __future__ import annotations

import gc
import os

import pytest

from tests.support.stopped_clock import StoppedClock
from vllm_codesign.micro.case import Case, Ready
from vllm_codesign.micro.harness import measure, no_collector, one_core

FOR_EVER = float("inf")


def case(name: str, log: list[str], units: int = 1, wrong: str | None = None) -> Case:
    def prepare() -> Ready:
        return Ready(lambda: log.append(name), lambda _: wrong, units)

    return Case(name, "frontend", prepare, "kind", 1_000)


def test_every_round_has_every_case_once_in_an_order_of_its_own() -> None:
    log: list[str] = []
    names = [f"case{number}" for number in range(12)]
    measured = measure([case(name, log) for name in names], 4, FOR_EVER)
    timings = measured.timings
    rounds = [log[begin : begin + 12] for begin in range(0, len(log), 12)]
    assert len(rounds) == 5, "one warms up"
    assert all(sorted(each) == sorted(names) for each in rounds)
    assert len({tuple(each) for each in rounds}) == 5
    assert [t.component for t in timings] == names
    assert {len(t.samples_ns) for t in timings} == {4}
    assert measured.skipped == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    stopped = StoppedClock()
    monkeypatch.setattr("vllm_codesign.micro.harness.time", stopped)
    return stopped


def test_a_time_is_that_of_the_call_alone_and_of_one_unit(clock: StoppedClock) -> None:
    lasts = iter([0.5, 0.02, 0.03, 0.01])

    def prepare() -> Ready:
        clock.work(0.3)
        return Ready(lambda: clock.work(next(lasts)), lambda _: clock.work(0.3), 10)

    (timing,) = measure([Case("busy", "frontend", prepare)], 3, FOR_EVER).timings
    assert timing.samples_ns == [2e6, 3e6, 1e6], "the warm-up is none"
    assert timing.median_ns == 2e6
    assert min(timing.samples_ns) <= timing.low_ns <= timing.median_ns <= timing.high_ns


def test_cpu_time_has_no_part_of_what_others_did(clock: StoppedClock) -> None:
    def works_and_sleeps() -> None:
        clock.work(0.02)
        clock.sleep(0.06)

    cases = [Case("both", "frontend", lambda: Ready(works_and_sleeps, lambda _: None))]
    cpu = measure(cases, 3, FOR_EVER, clock="cpu")
    (timing,) = cpu.timings
    assert timing.samples_ns == [20e6] * 3
    assert cpu.others == pytest.approx(0.75), "a sleep looks like another's turn"
    (wall,) = measure(cases, 3, FOR_EVER).timings
    assert wall.samples_ns == [80e6] * 3


def test_a_wrong_result_is_no_figure() -> None:
    log: list[str] = []
    cases = [case("encode", [], wrong="its tokens are others"), case("decode", log)]
    measured = measure(cases, 2, FOR_EVER)
    assert [(s.component, s.reason) for s in measured.skipped] == [
        ("encode (kind) at 1,000 tokens", "its tokens are others: nothing of it is reported")
    ]
    assert [t.component for t in measured.timings] == ["decode"]
    assert len(log) == 3
    assert gc.isenabled()


def test_what_a_library_raises_ends_one_component_and_not_the_run() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("another version's name\nand more")

    log: list[str] = []
    cases = [Case("odd", "frontend", lambda: Ready(fails, lambda _: None)), case("decode", log)]
    measured = measure(cases, 4, FOR_EVER)
    (skipped,) = measured.skipped
    assert skipped.component == "odd"
    assert skipped.reason.startswith("KeyError: ")
    assert "\n" not in skipped.reason
    assert (len(calls), len(log)) == (3, 5)
    assert [t.component for t in measured.timings] == ["decode"]


def test_the_deadline_ends_it_and_what_is_missing_is_said(clock: StoppedClock) -> None:
    log: list[str] = []
    measured = measure([case("late", log)], 5, clock.monotonic() - 1)
    assert (measured.timings, log, measured.others) == ([], [], None)
    assert [(s.component, s.reason) for s in measured.skipped] == [
        ("late (kind) at 1,000 tokens", "no time was left for it: more --seconds")
    ]


def test_rounds_that_were_done_before_the_deadline_count(clock: StoppedClock) -> None:
    cases = [Case("slow", "frontend", lambda: Ready(lambda: clock.work(0.05), lambda _: None))]
    measured = measure(cases, 10_000, clock.monotonic() + 0.22)
    (timing,) = measured.timings
    assert len(timing.samples_ns) == 4, "one of the five that began in time warms up"
    assert measured.skipped == []


def test_prompts_are_renewed_before_each_round() -> None:
    numbers: list[int] = []
    measure([case("one", [])], 2, FOR_EVER, numbers.append)
    assert numbers == [0, 1, 2]


def test_the_collector_is_off_inside_and_as_before_afterwards() -> None:
    with no_collector():
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_one_core_and_then_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    with one_core() as said:
        assert os.sched_getaffinity(0) == {max(before)}
        assert said == f"core {max(before)}"
    assert os.sched_getaffinity(0) == before

    def refused(pid: int, cores: set[int]) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refused)
    with one_core() as said:
        assert said == "no: Operation not permitted"
