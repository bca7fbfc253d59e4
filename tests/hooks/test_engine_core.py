"""Scheduler hooks on plain objects: admission, blocks, preemption, end of a request."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hooks.engine import Scheduler, queue, request, step
from vllm_codesign.hooks import engine_core
from vllm_codesign.hooks.engine_state import ENGINE, NUMBER_OF
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.recorder.active import key_of
from vllm_codesign.recorder.layout import Kind


@pytest.fixture(autouse=True)
def fresh(recording: Any) -> Iterator[None]:
    ENGINE.reset()
    yield
    ENGINE.reset()


def test_a_request_from_queue_to_end(recording: Any) -> None:
    """Two prefill chunks, three decode steps in batches of 1, 2 and 2, with its blocks."""
    scheduler, a = Scheduler(), request("a")
    queue(scheduler, a)
    key = key_of("a")
    (queued,) = recording.take()
    assert (queued.kind, queued.key, queued.t0) == (Kind.ENG_QUEUED, key, 1)
    assert (queued.a, queued.b, queued.c) == (100, 1, 0)

    engine_core._looked_up(5, 7, (None, 48), a)  # a try of an earlier step
    engine_core._looked_up(12, 15, (None, 64, None), a)
    scheduler.waiting.clear()
    engine_core._scheduled(10, 30, step(new=("a",), a=50), scheduler)
    scheduled, lookup, tried = recording.take()
    assert (scheduled.kind, scheduled.t0, scheduled.t1) == (Kind.ENG_SCHEDULED, 10, 30)
    assert (scheduled.a, scheduled.b, scheduled.s) == (64, 0, 0)
    assert (lookup.kind, lookup.t0, lookup.t1) == (Kind.ENG_LOOKUP, 12, 15)
    assert (lookup.a >> 32, lookup.a & 0xFFFFFFFF, lookup.b, lookup.c) == (100, 64, 5, 2)
    assert (tried.kind, tried.a, tried.b) == (Kind.ENG_TRIED, 200, 48 + 64)

    def update(output: Any, *tokens: int, of: str = "a") -> None:
        outputs = SimpleNamespace(
            outputs=[SimpleNamespace(request_id=of, new_token_ids=list(tokens))]
        )

        def original(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
            return {0: outputs}

        reads = ("self", "scheduler_output", "model_runner_output")
        wrapper = engine_core.make_update(original, getters_for(original, reads))
        assert wrapper(scheduler, output, None) == {0: outputs}

    update(step(a=50))
    engine_core._scheduled(40, 41, step(a=50), scheduler)
    update(step(a=50), 11)
    for batch in ({"a": 1}, {"a": 1, "b": 1}, {"a": 1, "b": 1}):
        engine_core._scheduled(50, 51, step(**batch), scheduler)
        update(step(**batch), 12)
    a.status = SimpleNamespace(name="FINISHED_LENGTH_CAPPED")
    engine_core._freed(99, 100, None, a)
    (finished,) = recording.take()
    assert (finished.kind, finished.t0, finished.s) == (Kind.ENG_FINISHED, 100, 2)
    assert (finished.t1, finished.a, finished.b, finished.c) == (2, 3, 5, 0)
    assert ENGINE.requests == {}
    engine_core._freed(99, 100, None, a)
    assert recording.take() == []


def test_a_decode_step_planned_ahead_is_no_prefill_chunk(recording: Any) -> None:
    """Async scheduling plans the next step before the first token of this one is back."""
    scheduler, a = Scheduler(), request("a")
    queue(scheduler, a)
    for computed, tokens in ((64, 64), (100, 36), (101, 1)):
        a.num_computed_tokens = computed  # as schedule() leaves it
        new = ("a",) if computed == 64 else ()
        engine_core._scheduled(10, 30, step(new=new, a=tokens), scheduler)
    assert ENGINE.requests["a"].chunks == 2


def test_a_lookup_of_an_earlier_step_is_not_the_admitting_one(recording: Any) -> None:
    scheduler, a = Scheduler(), request("a")
    queue(scheduler, a)
    engine_core._looked_up(5, 7, (None, 48), a)
    engine_core._scheduled(10, 30, step(new=("a",), a=1), scheduler)
    assert Kind.ENG_LOOKUP not in recording.kinds()


def hooked_allocation(answer: Callable[[], Any]) -> Any:
    """`allocate_slots`, as the hook has it."""

    def allocate_slots(
        request: Any,
        tokens: int,
        num_external_computed_tokens: int = 0,
        new_computed_blocks: Any = None,
    ) -> Any:
        return answer()

    reads = ("request", "num_external_computed_tokens", "new_computed_blocks")
    return engine_core.make_allocate(allocate_slots, getters_for(allocate_slots, reads))


def test_allocations(recording: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(100, 10_000, 10))
    monkeypatch.setattr(engine_core, "clock", lambda: next(times))
    got: list[Any] = [None, SimpleNamespace(blocks=([1, 2], [3])), SimpleNamespace(blocks=([4],))]

    def answer() -> Any:
        ENGINE.evicted += 2
        return got.pop(0)

    allocate = hooked_allocation(answer)
    scheduler, a = Scheduler(), request("a")
    queue(scheduler, a)
    assert allocate(a, 5) is None
    assert ENGINE.allocation_failed
    engine_core._scheduled(100, 115, step(), scheduler)
    assert not ENGINE.allocation_failed
    assert allocate(a, 5, num_external_computed_tokens=32).blocks == ([1, 2], [3])
    engine_core._scheduled(120, 135, step(new=("a",), a=1), scheduler)
    assert allocate(a, 1).blocks == ([4],)
    engine_core._freed(0, 200, None, a)
    records = {r.kind: r for r in recording.take()}
    assert records[Kind.ENG_SCHEDULED].b == 32
    admitting = records[Kind.ENG_ALLOCATE]
    assert (admitting.t0, admitting.t1) == (120, 130)
    assert (admitting.a >> 32, admitting.a & 0xFFFFFFFF) == (3, 2)
    assert (admitting.b, admitting.c) == (20, 2)
    decode = records[Kind.ENG_DECODE_KV]
    assert (decode.t0, decode.t1, decode.a, decode.b) == (10, 1, 1, 2)


@pytest.mark.parametrize("who", ["preempted", "untraced"])
def test_a_waiting_request_that_gets_no_blocks_says_so(recording: Any, who: str) -> None:
    """One that was admitted before waits again for all its blocks."""

    allocate = hooked_allocation(lambda: None)
    scheduler, a = Scheduler(), request(who)
    queue(scheduler, request("traced"))
    if who == "preempted":
        queue(scheduler, a)
        engine_core._scheduled(100, 115, step(new=(who,), **{who: 1}), scheduler)
    allocate(a, 5)
    assert ENGINE.allocation_failed


def test_preempted_and_resumed(recording: Any) -> None:
    scheduler, a = Scheduler(), request("a")
    queue(scheduler, a)
    scheduler.waiting.clear()
    engine_core._scheduled(10, 11, step(new=("a",), a=1), scheduler)
    a.num_computed_tokens = 77
    engine_core._preempted(20, a)
    scheduler.waiting.append(a)
    engine_core._scheduled(15, 21, step(), scheduler)
    scheduler.waiting.clear()
    engine_core._scheduled(30, 31, step(resumed=("a",), a=1), scheduler)
    a.status = SimpleNamespace(name="FINISHED_STOPPED")
    engine_core._freed(0, 50, None, a)
    records = recording.take()
    preempted = next(r for r in records if r.kind == Kind.ENG_PREEMPTED)
    assert (preempted.t0, preempted.a) == (20, 77)
    assert [(r.t0, r.s) for r in records if r.kind == Kind.ENG_SCHEDULED] == [(10, 0), (30, 1)]
    heads = [(r.t0, r.key, r.s) for r in records if r.kind == Kind.ENG_HEAD]
    assert heads == [(21, key_of("a"), NUMBER_OF["preemption"]), (31, 0, 0)]
    assert records[-1].c == 1


def test_preempted_between_two_steps_holds_nobody_up(recording: Any) -> None:
    """`reset_prefix_cache(reset_running_requests=True)` preempts outside schedule()."""
    scheduler, a = Scheduler(), request("a")
    queue(scheduler, a)
    scheduler.waiting.clear()
    engine_core._scheduled(10, 11, step(new=("a",), a=1), scheduler)
    engine_core._preempted(20, a)
    scheduler.waiting.append(a)
    engine_core._scheduled(25, 26, step(), scheduler)
    heads = [(r.t0, r.s) for r in recording.take() if r.kind == Kind.ENG_HEAD]
    assert heads == [(26, NUMBER_OF["other"])]


def test_preprocessing_is_stamped(recording: Any) -> None:
    engine_core._preprocessed(3, 9, None, request("a"))
    (record,) = recording.take()
    assert (record.kind, record.key, record.t0, record.t1) == (
        Kind.ENG_PREPROCESS,
        key_of("a"),
        3,
        9,
    )
