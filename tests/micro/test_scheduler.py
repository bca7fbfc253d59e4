"""vLLM's real scheduler, driven without a model: what is timed is what was planned."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

import pytest

from vllm_codesign.micro import scheduler
from vllm_codesign.micro.growth import growths
from vllm_codesign.micro.scheduler import CLOCKS, Grid, hit, run
from vllm_codesign.micro.scheduler_built import Built
from vllm_codesign.model.errors import CodesignError

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
)
SMALL = Grid(requests=(1, 2, 5), tokens=(40, 96), chunked=((5, 96),), budget=64)


def silent(text: str) -> None:
    return None


def far() -> float:
    return time.monotonic() + 600


@pytest.fixture
def built() -> Any:
    """Three prompts of 40 tokens: two blocks of 16 and a part of one."""
    return Built(3, 40, 16, budget=120)


@needs_vllm
def test_every_case_is_timed() -> None:
    told: list[str] = []
    timings = list(run(SMALL, 3, far(), told.append))
    found = {(t.component, t.variant, t.requests, t.tokens) for t in timings}
    wanted = {
        (component, variant, requests, tokens)
        for requests in SMALL.requests
        for tokens in SMALL.tokens
        for component, variants in {
            "schedule": ("prefill cold", "prefill warm", "decode"),
            "update_from_output": ("prefill cold", "prefill warm", "decode"),
            "allocate_slots": ("prefill cold", "prefill warm", "decode"),
            "get_computed_blocks": ("prefill cold", "prefill warm"),
        }.items()
        for variant in variants
    }
    wanted |= {(name, "prefill chunked", 5, 96) for name in ("schedule", "update_from_output")}
    assert found == wanted
    assert len(timings) == len(wanted)
    assert all(len(t.samples_ns) == 3 and min(t.samples_ns) > 0 for t in timings)
    assert all(t.low_ns <= t.median_ns <= t.high_ns and t.group == "scheduler" for t in timings)
    # 480 tokens, 64 a step: eight steps, or nine where the decoding ones take some of the room.
    notes = {t.note for t in timings if t.variant == "prefill chunked"}
    assert len(notes) == 1
    assert notes.pop().startswith(("sum of 8 steps", "sum of 9 steps"))
    assert told[0] == "1 x 40 tokens"
    assert told[-1] == "5 x 96 tokens in chunks of 64 tokens"
    series = growths(timings)
    assert {(g.against, g.at) for g in series} == {("requests", 40), ("requests", 96)}
    assert len(series) == 2 * 11


@needs_vllm
@pytest.mark.parametrize(("clock", "others_count"), [("wall", True), ("cpu", False)])
def test_the_turns_of_others_are_in_wall_time_alone(clock: Any, others_count: bool) -> None:
    built = Built(1, 40, 16, budget=40, now=CLOCKS[clock])
    schedule = built.scheduler.schedule

    def late() -> Any:
        time.sleep(0.3)
        return schedule()

    built.scheduler.schedule = late
    built.add()
    step = built.step()
    assert step.answered == 1
    assert step.schedule_ns > 0
    assert (step.schedule_ns >= 300_000_000) is others_count


@needs_vllm
def test_prompts_in_many_chunks_are_all_computed() -> None:
    """The first decodes for longer than a request of the other cases may."""
    grid = Grid(requests=(2,), tokens=(400,), chunked=((2, 400),), budget=4)
    timings = [t for t in run(grid, 1, far(), silent) if t.variant == "prefill chunked"]
    assert [t.component for t in timings] == ["schedule", "update_from_output"]
    steps = int(timings[0].note.split()[2])
    # The second prompt has three of the four tokens, the first the other.
    assert steps == 100 + 1 + 133


@needs_vllm
def test_a_step_schedules_what_is_there(built: Built) -> None:
    empty = built.free_blocks
    built.add()
    first = built.step()
    assert sorted(first.scheduled.values()) == [40] * 3
    assert first.answered == 3
    assert empty - built.free_blocks == 3 * 3
    second = built.step()
    assert sorted(second.scheduled.values()) == [1] * 3
    assert min(second.schedule_ns, second.update_ns) > 0
    built.finish()
    assert built.free_blocks == empty
    built.add()
    with built.inside("get_computed_blocks") as lookup, built.inside("allocate_slots") as slots:
        again = built.step()
    assert sorted(again.scheduled.values()) == [40 - hit(40, 16)] * 3 == [8] * 3
    assert (lookup.calls, slots.calls) == (3, 3)
    assert min(lookup.ns, slots.ns) > 0
    assert lookup.ns + slots.ns < again.schedule_ns
    built.finish()
    built.forget()
    built.add()
    assert sorted(built.step().scheduled.values()) == [40] * 3, "nothing is cached any more"
    assert "allocate_slots" not in vars(built.cache), "the cache manager is as it was"


@needs_vllm
def test_what_was_not_planned_is_no_timing(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    built.add()
    built.step()
    with pytest.raises(RuntimeError, match="still holds blocks"):
        built.forget()
    monkeypatch.setattr(scheduler, "hit", lambda tokens, block_size: 16)
    with pytest.raises(CodesignError, match=r"were scheduled with .* tokens, not 24"):
        list(run(Grid(requests=(2,), tokens=(40,)), 1, far(), silent))


@needs_vllm
def test_the_deadline_is_told() -> None:
    told: list[str] = []
    assert list(run(SMALL, 2, time.monotonic() - 1, told.append)) == []
    assert told == [
        "no time left, not timed: 1 x 40 tokens, 2 x 40 tokens, 1 x 96 tokens, 2 x 96 tokens, "
        "5 x 40 tokens, 5 x 96 tokens"
    ]


@needs_vllm
def test_another_vllm_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    def changed(self: Any, engine: Any) -> None:
        """A constructor of some later day."""

    monkeypatch.setattr(Scheduler, "__init__", changed)
    with pytest.raises(CodesignError, match=r"cannot be built without an engine \(TypeError: .*"):
        list(run(SMALL, 1, far(), silent))


@needs_vllm
def test_what_vllm_raises_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    def fails(self: Any, planned: Any, answer: Any) -> None:
        raise RuntimeError("another answer\nwas wanted")

    monkeypatch.setattr(Scheduler, "update_from_output", fails)
    with pytest.raises(
        CodesignError, match=r"failed at 1 x 40 tokens \(RuntimeError: another answer was wanted\)"
    ) as raised:
        list(run(SMALL, 1, far(), silent))
    assert "\n" not in str(raised.value)


def test_without_vllm_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(CodesignError, match="vLLM does not import here") as raised:
        list(run(SMALL, 1, far(), silent))
    assert "\n" not in str(raised.value)


def test_a_grid_leaves_out_what_has_too_many_tokens() -> None:
    full = Grid.full()
    assert full.left_out() == [(1_024, 100_000)]
    cases = full.cases()
    assert len(cases) == 7 * 4 - 1
    assert cases[0] == (1, 1_000)
    assert [r * t for r, t in cases] == sorted(r * t for r, t in cases)
    assert set(full.chunked) <= set(cases)
    assert {32, 256} <= set(full.requests)
    assert Grid.quick().left_out() == []


def test_left_out_cases_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(scheduler, "_case", lambda *args: iter(()))
    grid = Grid(requests=(1, 10), tokens=(100,), most_tokens=500)
    assert list(run(grid, 1, far(), told.append)) == []
    assert told == ["10 x 100 tokens: left out, more than 500 tokens in all", "1 x 100 tokens"]


@pytest.mark.parametrize(
    ("tokens", "saved"), [(1, 0), (16, 0), (17, 16), (32, 16), (33, 32), (100_000, 99_984)]
)
def test_the_last_token_is_always_computed(tokens: int, saved: int) -> None:
    assert hit(tokens, 16) == saved
