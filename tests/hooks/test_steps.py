"""The step timeline of EngineCore: the real wrappers around stand-ins for vLLM's scheduler."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hooks.engine import Scheduler, queue, request, sampled, step
from vllm_codesign.hooks import engine_core, steps, wrap
from vllm_codesign.hooks.engine_state import ENGINE, NUMBER_OF
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.recorder.layout import DECODING, Kind
from vllm_codesign.recorder.reader import Record

REQUEST, STEP = 1, 2
LOW = 0xFFFFFFFF
HOOKS = {hook.id: hook for hook in engine_core.HOOKS}
OF_STEPS = (Kind.STEP, Kind.STEP_STATE, Kind.STEP_UPDATE, Kind.STEP_DECODES, Kind.STEP_CHUNKS)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now


class Core:
    """An EngineCore whose scheduler does what the test says, under the real hooks."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.scheduler = Scheduler()
        self.next: Any = None
        self.within: Callable[[], None] = lambda: None
        self.took = 0
        core = self

        def schedule(self: Any) -> Any:
            clock.now += core.took
            core.within()
            return core.next

        def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
            clock.now += core.took
            return {}

        self._schedule = self.hook("scheduler.schedule", schedule)
        self._update = self.hook("scheduler.update_from_output", update_from_output)

    @staticmethod
    def hook(row: str, original: Callable[..., Any]) -> Callable[..., Any]:
        hook = HOOKS[row]
        return hook.make(original, getters_for(original, hook.reads))

    def admit(self, *names: str) -> None:
        """These are in the engine and compute no prompt any more."""
        for name in names:
            queue(self.scheduler, request(name, num_computed_tokens=100), at=self.clock.now)
        self.scheduler.waiting.clear()
        self.scheduler.running.extend(names)

    def schedule(self, output: Any, took: int = 0) -> Any:
        self.next, self.took = output, took
        return self._schedule(self.scheduler)

    def update(self, output: Any, result: Any = None, took: int = 0) -> None:
        self.took = took
        assert self._update(self.scheduler, output, result) == {}

    def run(self, took: int = 0, **tokens: int) -> Any:
        """One synchronous step."""
        output = self.schedule(step(**tokens), took)
        self.update(output, took=took)
        return output


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(wrap, "clock", clock)
    monkeypatch.setattr(engine_core, "clock", clock)
    return clock


@pytest.fixture
def core(recording: Any, clock: Clock) -> Iterator[Core]:
    ENGINE.reset()
    recording.session.level = STEP
    yield Core(clock)
    ENGINE.reset()


def taken(recording: Any, *kinds: Kind) -> list[Record]:
    return [record for record in recording.take() if record.kind in (kinds or OF_STEPS)]


def key(number: int) -> int:
    return os.getpid() << 40 | number


def told(records: list[Record]) -> list[tuple[int, int, bool]]:
    """(number, tokens, decodes) of all members that these records tell."""
    members = []
    for record in sorted(records, key=lambda r: r.c):
        numbers = struct.unpack("<8I", record.payload)
        if record.kind == Kind.STEP_DECODES:
            members += [(n, 1, True) for n in numbers[: record.s]]
        elif record.kind == Kind.STEP_CHUNKS:
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            members += [(n, t & DECODING - 1, bool(t & DECODING)) for n, t in pairs][: record.s]
    return members


def told_with(recording: Any) -> list[tuple[int, bool]]:
    """For each step recorded: the number of the step that its members stand with, and whether
    that was just told."""
    return [
        (record.b & (1 << 40) - 1, record.b == record.key)
        for record in taken(recording, Kind.STEP_STATE)
    ]


def test_a_step_says_what_it_held(core: Core, recording: Any, clock: Clock) -> None:
    core.admit("a", "b")
    recording.take()
    waiting = request("c")
    queue(core.scheduler, waiting)
    core.scheduler._pause_state = SimpleNamespace(name="PAUSED_ALL")
    assert core.schedule(step(), 5).num_scheduled_tokens == {}
    blocks = SimpleNamespace(blocks=([1],))

    def allocate_slots(
        request: Any, num_external_computed_tokens: int = 0, new_computed_blocks: Any = None
    ) -> Any:
        clock.now += 7
        return blocks

    allocate = core.hook("kv.allocate", allocate_slots)

    def within() -> None:
        clock.now += 10
        allocate(core.scheduler.requests["a"])
        clock.now += 1
        allocate(core.scheduler.requests["b"])
        engine_core._preempted(clock.now, core.scheduler.requests["c"])

    core.within = within
    recording.take()
    output = core.schedule(step(a=1, b=1), 100)
    assert output.codesign_step == key(1)
    members, planned, state = taken(recording)
    assert (members.kind, members.key, members.s, members.c) == (Kind.STEP_DECODES, key(1), 2, 0)
    assert told([members]) == [(1, 1, True), (2, 1, True)]
    assert (planned.kind, planned.key) == (Kind.STEP, key(1))
    assert (planned.t0, planned.t1) == (1_005, 1_130)
    assert (planned.a >> 32, planned.a & LOW, planned.b, planned.c) == (2, 2, 5, 2)
    assert planned.s == NUMBER_OF["preemption"]
    assert (state.kind, state.key, state.b) == (Kind.STEP_STATE, key(1), key(1))
    assert (state.t0, state.t1, state.a & LOW) == (1_115, 1_130, 14)
    assert (state.a >> 32, state.s) == (2, 1), "running, waiting"
    assert (state.c >> 16, state.c & 0xFFFF) == (1, 1), "preempted, pieces"


def test_times_between_the_calls_are_those_that_passed(
    core: Core, recording: Any, clock: Clock
) -> None:
    core.admit("a")
    recording.take()
    for before, waited in ((0, 40), (3, 50)):
        clock.now += before
        output = core.schedule(step(a=1), took=11)
        clock.now += waited
        core.update(output, took=9)
    first, first_update, second, second_update = taken(recording, Kind.STEP, Kind.STEP_UPDATE)
    assert (first.t0, first.t1, first.b) == (1_000, 1_011, 0), "it began at once"
    assert (first_update.key, first_update.t0, first_update.t1) == (key(1), 1_051, 1_060)
    assert first_update.b == 40
    assert (second.t0, second.b) == (1_063, 3)
    assert second_update.b == 50


def test_the_first_step_says_since_when_the_engine_has_had_a_request(
    core: Core, recording: Any, clock: Clock
) -> None:
    """A connector may look for its blocks meanwhile: vLLM plans empty steps, and none is told."""
    queue(core.scheduler, request("a"), at=clock.now)
    clock.now += 300
    core.schedule(step())
    queue(core.scheduler, request("b"), at=clock.now)
    clock.now += 400
    core.run(took=5, a=50)
    clock.now += 7
    core.run(took=5, a=50)
    assert [r.b for r in taken(recording, Kind.STEP)] == [700, 7]


def test_what_was_before_is_not_known_where_others_ran(
    core: Core, recording: Any, clock: Clock
) -> None:
    """The level was raised while they did: their steps were not told."""
    core.scheduler.running.append("unknown")
    queue(core.scheduler, request("a"), at=clock.now)
    clock.now += 300
    core.run(a=50, unknown=1)
    assert [r.b for r in taken(recording, Kind.STEP)] == [0]


def test_a_result_that_is_one_step_late_lands_on_its_own_step(
    core: Core, recording: Any, clock: Clock
) -> None:
    """Asynchronous scheduling: plan 1, plan 2, result 1, plan 3, result 2."""
    core.admit("a")
    recording.take()
    one = core.schedule(step(a=1), 10)
    clock.now += 5
    two = core.schedule(step(a=1), 10)
    clock.now += 20
    core.update(one, took=4)
    clock.now += 1
    three = core.schedule(step(a=1), 10)
    clock.now += 30
    core.update(two, took=4)
    core.update(three, took=4)
    assert [each.codesign_step for each in (one, two, three)] == [key(1), key(2), key(3)]
    records = taken(recording, Kind.STEP, Kind.STEP_UPDATE)
    assert [(r.kind, r.key & 0xFF, r.b) for r in records] == [
        (Kind.STEP, 1, 0),
        (Kind.STEP, 2, 5),
        (Kind.STEP_UPDATE, 1, 20),
        (Kind.STEP, 3, 1),
        (Kind.STEP_UPDATE, 2, 30),
        (Kind.STEP_UPDATE, 3, 0),
    ]


def test_an_empty_step_is_none(core: Core, recording: Any, clock: Clock) -> None:
    core.admit("a")
    recording.take()
    core.run(took=5, a=1)
    clock.now += 100
    empty = core.run(took=5)
    clock.now += 100
    core.run(took=5, a=1)
    assert not hasattr(empty, steps.ATTRIBUTE)
    records = taken(recording, Kind.STEP, Kind.STEP_UPDATE)
    assert [r.key for r in records] == [key(1), key(1), key(2), key(2)]
    assert records[2].b == 210, "since the last call that had to do with a step"


def test_members_are_told_once_and_then_referred_to(core: Core, recording: Any) -> None:
    core.admit("a", "b")
    for _ in range(3):
        core.run(a=1, b=1)
    core.run(b=1, a=1)
    assert told_with(recording) == [(1, True), (1, False), (1, False), (1, False)]


def test_members_are_told_again_after_256_steps(core: Core, recording: Any) -> None:
    core.admit("a")
    told_again = []
    for number in range(1, 515):
        core.run(a=1)
        told_again += [number for _, just_told in told_with(recording) if just_told]
    assert told_again == [1, 257, 513]


def test_members_are_told_again_after_a_change(core: Core, recording: Any) -> None:
    core.admit("a", "b", "c")
    recording.take()
    core.run(a=1, b=1)
    core.run(a=1)
    core.run(a=1)
    core.run(a=1, c=1)
    assert told(taken(recording, Kind.STEP_DECODES)[-1:]) == [(1, 1, True), (3, 1, True)]
    core.run(a=1, c=1)
    core.run(a=1, b=1)
    assert told_with(recording) == [(5 - 1, False), (6, True)]


def test_prefill_chunks_are_told_with_their_tokens(core: Core, recording: Any) -> None:
    core.admit("a")
    new = request("p")
    queue(core.scheduler, new)
    core.scheduler.waiting.clear()
    core.run(a=1)
    recording.take()
    new.num_computed_tokens = 60
    core.run(new=("p",), a=1, p=60)
    records = taken(recording, Kind.STEP_DECODES, Kind.STEP_CHUNKS)
    assert told(records) == [(1, 1, True), (2, 60, False)]
    new.num_computed_tokens = 100
    core.run(a=1, p=40)
    assert told(taken(recording, Kind.STEP_DECODES, Kind.STEP_CHUNKS)) == [
        (1, 1, True),
        (2, 40, False),
    ]
    for computed, just_told in ((101, True), (102, False)):
        new.num_computed_tokens = computed
        core.run(a=1, p=1)
        assert [again for _, again in told_with(recording)] == [just_told]


def test_a_last_chunk_of_one_token_is_prefill(core: Core, recording: Any) -> None:
    new = request("p")
    queue(core.scheduler, new)
    core.scheduler.waiting.clear()
    recording.take()
    new.num_computed_tokens = 100
    core.run(new=("p",), p=1)
    assert told(taken(recording, Kind.STEP_CHUNKS)) == [(1, 1, False)]


def test_speculative_tokens(core: Core, recording: Any) -> None:
    core.admit("a", "b")
    recording.take()
    drafted = {"a": [7, 8, 9], "b": [7, 8]}
    output = core.schedule(step(drafted=drafted, a=4, b=3))
    core.update(output, sampled(a=[7, 8, 1], b=[5]))
    core.update(core.schedule(step(drafted={"a": [1]}, a=2)), sampled(b=[5]))
    core.update(core.schedule(step(drafted={"a": [1]}, a=2)), sampled(a=[]))
    records = recording.take()
    updates = [r for r in records if r.kind == Kind.STEP_UPDATE]
    assert [(r.a >> 32, r.a & LOW) for r in updates] == [(5, 2), (1, 0), (1, 0)]
    chunks = [r for r in records if r.kind == Kind.STEP_CHUNKS]
    assert told(chunks[:1]) == [(1, 4, True), (2, 3, True)]
    assert [r.key for r in chunks] == [key(1), key(2), key(3)], "told in every step"


def test_many_members_take_several_pieces(core: Core, recording: Any) -> None:
    names = [f"r{index}" for index in range(20)]
    core.admit(*names)
    recording.take()
    core.run(**dict.fromkeys(names[:17], 1), **dict.fromkeys(names[17:], 5))
    records = taken(recording)
    pieces = [r for r in records if r.kind in (Kind.STEP_DECODES, Kind.STEP_CHUNKS)]
    assert [(r.kind, r.s, r.c) for r in pieces] == [
        (Kind.STEP_DECODES, 8, 0),
        (Kind.STEP_DECODES, 8, 1),
        (Kind.STEP_DECODES, 1, 2),
        (Kind.STEP_CHUNKS, 3, 3),
    ]
    (state,) = (r for r in records if r.kind == Kind.STEP_STATE)
    assert state.c & 0xFFFF == 4
    assert told(pieces) == [(n, 1, True) for n in range(1, 18)] + [
        (n, 5, True) for n in range(18, 21)
    ]


def test_requests_that_came_in_while_dormant_are_left_out(core: Core, recording: Any) -> None:
    core.admit("a")
    recording.take()
    core.run(a=1, untraced=1)
    records = taken(recording)
    assert told([r for r in records if r.kind == Kind.STEP_DECODES]) == [(1, 1, True)]
    (planned,) = (r for r in records if r.kind == Kind.STEP)
    assert planned.a & LOW == 2
    core.run(untraced=1)
    records = taken(recording)
    assert [r.kind for r in records] == [Kind.STEP, Kind.STEP_STATE, Kind.STEP_UPDATE]
    assert records[1].c & 0xFFFF == 0


def test_below_level_step_no_step_is_recorded(core: Core, recording: Any) -> None:
    recording.session.level = REQUEST
    core.admit("a")
    output = core.run(a=1)
    assert taken(recording) == []
    assert not hasattr(output, steps.ATTRIBUTE)


def test_the_level_may_change_between_plan_and_result(
    core: Core, recording: Any, clock: Clock
) -> None:
    core.admit("a")
    recording.take()
    recorded = core.schedule(step(a=1))
    recording.session.level = REQUEST
    core.update(recorded)
    unrecorded = core.schedule(step(a=1), took=10)
    recording.session.level = STEP
    clock.now += 30
    core.update(unrecorded, took=5)
    clock.now += 2
    core.run(a=1)
    records = taken(recording, Kind.STEP, Kind.STEP_UPDATE)
    assert [(r.kind, r.key) for r in records] == [
        (Kind.STEP, key(1)),
        (Kind.STEP_UPDATE, key(1)),
        (Kind.STEP, key(2)),
        (Kind.STEP_UPDATE, key(2)),
    ]
    assert records[2].b == 2, "stamps are kept at level request"


def test_what_passed_while_dormant_is_not_told(core: Core, recording: Any, clock: Clock) -> None:
    core.admit("a")
    core.run(a=1)
    engine_core._freed(0, clock.now, None, request("a", status=SimpleNamespace(name="X")))
    recording.session.level = 0
    core.run(untraced=1)
    clock.now += 1_000_000
    recording.session.level = STEP
    core.admit("b")
    recording.take()
    core.run(b=1)
    (planned,) = taken(recording, Kind.STEP)
    assert planned.b == 0


def test_a_forked_child_counts_anew(core: Core) -> None:
    core.admit("a")
    core.run(a=1)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        told_none = ENGINE.told_members is None and not ENGINE.requests
        os.write(write, bytes([ENGINE.step_number, told_none]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 2) == bytes([0, 1])
    os.close(read)
    os.close(write)
