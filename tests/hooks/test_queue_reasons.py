"""Why requests wait, inferred after each step, and written down when it changes."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hooks.engine import PriorityQueue, Queue, Scheduler, queue, request, step
from vllm_codesign.hooks import engine_core, queue_reasons
from vllm_codesign.hooks.engine_state import ENGINE, NUMBER_OF
from vllm_codesign.recorder.active import key_of
from vllm_codesign.recorder.layout import Kind


@pytest.fixture(autouse=True)
def fresh(recording: Any) -> Iterator[None]:
    ENGINE.reset()
    yield
    ENGINE.reset()


def reason_at_head(recording: Any) -> list[tuple[int, str]]:
    """(key, reason) of each change at the head."""
    names = {number: name for name, number in NUMBER_OF.items()}
    return [(r.key, names.get(r.s, "none")) for r in recording.take() if r.kind == Kind.ENG_HEAD]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "other"),
        ({"running": [1, 2, 3, 4]}, "no_slot"),
        ({"_pause_state": SimpleNamespace(name="PAUSED_ALL")}, "paused"),
        ({"_pause_state": SimpleNamespace(name="UNPAUSED")}, "other"),
        ({"max_num_scheduled_tokens": 10}, "token_budget"),
    ],
)
def test_reason_at_the_head(recording: Any, change: dict[str, Any], reason: str) -> None:
    scheduler = Scheduler()
    for name, value in change.items():
        setattr(scheduler, name, value)
    queue(scheduler, request("a"), request("b"))
    recording.take()
    for _ in range(3):
        queue_reasons.note_queue(50, step(x=10), scheduler)
    assert reason_at_head(recording) == [(key_of("a"), reason)], "changes only"


def test_no_free_blocks_goes_before_what_follows_from_it(recording: Any) -> None:
    scheduler = Scheduler()
    scheduler.running = [1, 2, 3, 4]
    queue(scheduler, request("a", has_encoder_inputs=True))
    engine_core._fits(0, 1, True)
    queue_reasons.note_queue(50, step(), scheduler)
    engine_core._fits(0, 1, False)
    queue_reasons.note_queue(60, step(), scheduler)
    scheduler.running = []
    ENGINE.allocation_failed = False
    queue_reasons.note_queue(70, step(), scheduler)
    assert [reason for _, reason in reason_at_head(recording)] == [
        "no_slot",
        "no_free_blocks",
        "encoder_budget",
    ]


def test_the_head_changes_and_the_queue_runs_empty(recording: Any) -> None:
    scheduler = Scheduler()
    a, b, unknown = request("a"), request("b"), request("unknown")
    queue(scheduler, a, b)
    for waiting in ([a, b], [b], [unknown], [], []):
        scheduler.waiting = Queue(waiting)
        queue_reasons.note_queue(50, step(), scheduler)
    assert reason_at_head(recording) == [
        (key_of("a"), "other"),
        (key_of("b"), "other"),
        (0, "other"),
        (0, "none"),
    ]


@pytest.mark.parametrize("attribute", ["deferred_waiting", "skipped_waiting"])
@pytest.mark.parametrize(
    ("status", "more", "scheduler_more", "reason"),
    [
        ("WAITING_FOR_REMOTE_KVS", {}, {}, "kv_load"),
        ("WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR", {}, {}, "grammar"),
        ("WAITING_FOR_FSM", {}, {}, "grammar"),
        ("WAITING", {"lora_request": object()}, {"lora_config": object()}, "lora_limit"),
        ("WAITING", {"lora_request": object()}, {"lora_config": None}, "other"),
        ("WAITING", {}, {"connector": object()}, "kv_lookup"),
        ("WAITING", {}, {}, "other"),
    ],
)
def test_passed_over(
    recording: Any,
    attribute: str,
    status: str,
    more: dict[str, Any],
    scheduler_more: dict[str, Any],
    reason: str,
) -> None:
    scheduler = Scheduler(**scheduler_more)
    a = request("a", status=SimpleNamespace(name=status), **more)
    b = request("b")
    queue(scheduler, a, b)
    recording.take()
    setattr(scheduler, attribute, [a])
    if attribute == "skipped_waiting":
        scheduler.waiting.remove(a)
    for _ in range(2):
        queue_reasons.note_queue(50, step(), scheduler)
    setattr(scheduler, attribute, [])
    queue_reasons.note_queue(60, step(), scheduler)
    records = recording.take()
    deferred = [(r.key, r.t0, r.s) for r in records if r.kind == Kind.ENG_DEFERRED]
    assert deferred == [(key_of("a"), 50, NUMBER_OF[reason]), (key_of("a"), 60, 0)]
    heads = [r.key for r in records if r.kind == Kind.ENG_HEAD]
    assert heads[0] == key_of("b"), "who is passed over holds nobody up"


def test_a_priority_queue_is_not_searched(recording: Any) -> None:
    scheduler = Scheduler()
    a, b = request("a"), request("b")
    queue(scheduler, a, b)
    scheduler.waiting = PriorityQueue([a, b])
    scheduler.deferred_waiting = {a}
    queue_reasons.note_queue(50, step(), scheduler)
    assert reason_at_head(recording) == [(key_of("a"), "other")]
