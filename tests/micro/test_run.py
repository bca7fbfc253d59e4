"""A whole run: components and scheduler share the time, and what is missing is said."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.micro import timing
from tests.support.stopped_clock import StoppedClock
from vllm_codesign.micro import run as room
from vllm_codesign.micro.harness import Clock, Measured
from vllm_codesign.micro.run import NAMES, Plan, execute
from vllm_codesign.micro.scheduler import Grid
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.micro import MicroRun, Timing

GRID = Grid(requests=(1, 2, 4), tokens=(64,), block_size=16)


def no_model() -> str:
    raise AssertionError("no component here needs a tokenizer")


def plan(*names: str, seconds: float = 60.0, grid: Grid = GRID) -> Plan:
    return Plan(names, no_model, (1_000, 2_000, 4_000), 3, seconds, grid)


def silent(line: str) -> None:
    """Progress that nobody reads."""


def scheduled(
    monkeypatch: pytest.MonkeyPatch, found: Callable[[float], Iterator[Timing]]
) -> list[float]:
    """Stands in for the scheduler; the deadlines that it is given."""
    deadlines: list[float] = []

    def stand_in(
        grid: Grid,
        rounds: int,
        deadline: float,
        progress: Callable[[str], None],
        clock: Clock,
    ) -> Iterator[Timing]:
        deadlines.append(deadline)
        return found(deadline)

    monkeypatch.setattr(room, "vllm_version", lambda: "0.32.0")
    monkeypatch.setattr(room, "time_scheduler", stand_in)
    monkeypatch.setattr(room, "_load_scheduler", lambda: None)
    return deadlines


def skipped(run: MicroRun) -> list[tuple[str, str]]:
    return [(each.component, each.reason) for each in run.skipped]


def test_without_vllm_the_scheduler_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "vllm_version", lambda: "")
    monkeypatch.setattr(room, "_load_scheduler", lambda: None)
    run = execute(plan("sha256", "scheduler"), silent)
    assert skipped(run) == [("scheduler", "vllm is not installed")]
    assert [t.tokens for t in run.timings] == [1_000, 2_000, 4_000]
    assert [(g.component, g.against, g.sizes) for g in run.growths] == [
        ("sha256", "tokens", [1_000, 2_000, 4_000])
    ]
    assert run.environment["rounds"] == "3"


def test_a_scheduler_that_cannot_be_built_costs_nobody_elses_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unfit(deadline: float) -> Iterator[Timing]:
        raise CodesignError("this vLLM's Scheduler wants to be built otherwise")
        yield

    scheduled(monkeypatch, unfit)
    run = execute(plan("sha256", "scheduler"), silent)
    assert skipped(run) == [("scheduler", "this vLLM's Scheduler wants to be built otherwise")]
    assert len(run.timings) == 3
    with pytest.raises(CodesignError, match=r"nothing could be timed \(scheduler: this vLLM's"):
        execute(plan("scheduler"), silent)


def test_what_was_timed_before_an_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(deadline: float) -> Iterator[Timing]:
        yield timing("schedule", 5.0, group="scheduler", requests=1, tokens=64)
        raise MemoryError

    scheduled(monkeypatch, breaks)
    run = execute(plan("scheduler"), silent)
    assert [t.component for t in run.timings] == ["schedule"]
    assert skipped(run) == [
        ("scheduler", "no memory was left for its next case"),
        ("scheduler, 2 x 64 tokens", "an earlier case failed"),
        ("scheduler, 4 x 64 tokens", "an earlier case failed"),
    ]


def test_cases_of_the_grid_without_a_figure_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(deadline: float) -> Iterator[Timing]:
        for requests in (1, 2):
            yield timing("schedule", 5.0, group="scheduler", requests=requests, tokens=64)

    scheduled(monkeypatch, two)
    grid = Grid(requests=(1, 2, 4, 1_024), tokens=(64,), most_tokens=1_000)
    assert skipped(execute(plan("scheduler", grid=grid), silent)) == [
        ("scheduler, 1,024 x 64 tokens", "more than 1,000 tokens in all"),
        ("scheduler, 4 x 64 tokens", "no time was left for it: more --seconds"),
    ]


def test_both_get_their_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(deadline: float) -> Iterator[Timing]:
        yield timing("schedule", 5.0, group="scheduler", requests=1, tokens=64)

    ends: list[float] = []

    def measured(cases: object, rounds: int, deadline: float, *rest: object, **more: object) -> Any:
        ends.append(deadline)
        return Measured([], [], None)

    clock = StoppedClock()
    monkeypatch.setattr(room, "time", clock)
    monkeypatch.setattr(room, "measure", measured)
    deadlines = scheduled(monkeypatch, one)
    execute(Plan(("sha256", "scheduler"), no_model, (1_000,), 2, 100.0, GRID), silent)
    assert ends == [clock.monotonic() + 100.0 * room._OF_THE_COMPONENTS]
    assert deadlines == [clock.monotonic() + 100.0]
    execute(Plan(("scheduler",), no_model, (1_000,), 2, 100.0, GRID), silent)
    assert deadlines[1] == clock.monotonic() + 100.0


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
)
def test_a_real_scheduler() -> None:
    run = execute(plan("scheduler"), silent)
    assert skipped(run) == []
    assert {t.component for t in run.timings} == {
        "schedule", "update_from_output", "allocate_slots", "get_computed_blocks",
    }  # fmt: skip
    schedule = [g for g in run.growths if g.component == "schedule" and g.variant == "decode"]
    assert [(g.against, g.at, g.sizes) for g in schedule] == [("requests", 64, [1, 2, 4])]


def test_names_are_those_of_the_command() -> None:
    assert NAMES[-1] == "scheduler"
    assert len(set(NAMES)) == len(NAMES) == 11


@pytest.mark.parametrize(
    ("part", "clock", "said"),
    [
        (None, "wall", "unknown"),
        (0.01, "wall", "had 1 % of the core"),
        (0.6, "cpu", "had 60 % of the core"),
        (
            0.6,
            "wall",
            "had 60 % of the core (wall times hold their turns: --clock cpu, or a quiet machine)",
        ),
    ],
)
def test_a_busy_machine_is_said(part: float | None, clock: Clock, said: str) -> None:
    assert room._others(part, clock) == said


def test_the_scheduler_is_timed_by_the_clock_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks: list[str] = []

    def stand_in(*given: Any) -> Iterator[Timing]:
        clocks.append(given[-1])
        return iter([timing("schedule", 5.0, group="scheduler", requests=1, tokens=64)])

    monkeypatch.setattr(room, "vllm_version", lambda: "0.32.0")
    monkeypatch.setattr(room, "time_scheduler", stand_in)
    monkeypatch.setattr(room, "_load_scheduler", lambda: None)
    for clock in ("wall", "cpu"):
        made = execute(Plan(("scheduler",), no_model, (1_000,), 2, 100.0, GRID, clock), silent)
        assert made.environment["clock"] == clock
    assert clocks == ["wall", "cpu"]
