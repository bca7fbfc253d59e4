"""What EngineCore's hooks remember of a request between two calls."""

from __future__ import annotations

import os

from vllm_codesign.hooks.kv_state import Transfers
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import REASON_NUMBERS, Kind

NUMBER_OF = {name: number for number, name in enumerate(REASON_NUMBERS, 1)}

# RequestStatus by name (its numbers moved between versions) to FinishReason, plus one.
FINISH_CODE = {
    "FINISHED_STOPPED": 1,
    "FINISHED_LENGTH_CAPPED": 2,
    "FINISHED_IGNORED": 2,
    "FINISHED_ABORTED": 3,
    "FINISHED_ERROR": 4,
    "FINISHED_REPETITION": 5,
}


class Owner:
    """Whom a cached block belongs to: it outlives the request."""

    __slots__ = ("freed_at", "key")

    def __init__(self, key: int) -> None:
        self.key = key
        self.freed_at = 0


class Shared:
    """Whom a block belongs to that was found while others still had it: it lies idle only since
    the last of them was freed."""

    __slots__ = ("holders", "key")

    def __init__(self, finder: Owner, before: Owner | Shared) -> None:
        self.key = finder.key
        earlier = before.holders if isinstance(before, Shared) else (before,)
        # Who is freed already was so before the finder will be.
        self.holders: tuple[Owner, ...] = (
            *(owner for owner in earlier if not owner.freed_at),
            finder,
        )

    @property
    def freed_at(self) -> int:
        """When the last was; 0 while one runs."""
        times = [owner.freed_at for owner in self.holders]
        return max(times) if all(times) else 0


class Scheduled:
    """One engine request, from the waiting queue to its last token."""

    __slots__ = (
        "admitted",
        "again",
        "again_from",
        "alloc_blocks",
        "alloc_end",
        "alloc_evicted",
        "alloc_ns",
        "alloc_start",
        "alloc_tries",
        "asked",
        "batch_sum0",
        "chunks",
        "decode_alloc_calls",
        "decode_alloc_ns",
        "decode_blocks",
        "decode_evicted",
        "deferred",
        "external",
        "found",
        "found_idle",
        "has_first",
        "hit",
        "key",
        "kv",
        "lookup_end",
        "lookup_ns",
        "lookup_start",
        "lookup_tries",
        "number",
        "owner",
        "preemptions",
        "step0",
        "tries_asked",
        "tries_hit",
    )

    def __init__(self, key: int, number: int = 0) -> None:
        self.key = key
        self.number = number
        self.admitted = self.has_first = False
        self.lookup_start = self.lookup_end = self.lookup_ns = self.lookup_tries = 0
        self.asked = self.hit = self.external = 0
        self.tries_asked = self.tries_hit = 0
        self.alloc_start = self.alloc_end = self.alloc_ns = self.alloc_tries = 0
        self.alloc_blocks = self.alloc_evicted = 0
        self.decode_alloc_calls = self.decode_alloc_ns = 0
        self.decode_blocks = self.decode_evicted = 0
        self.chunks = self.preemptions = self.deferred = 0
        self.step0 = self.batch_sum0 = 0
        self.kv: Transfers | None = None
        """What KV connectors do for it."""
        self.owner = Owner(key)
        # Tokens that had been cached and are to be computed again, seen when so many were found
        # since the cache was emptied so many times; blocks found in the cache that nobody held,
        # and for how long nobody had, in the mean.
        self.again, self.again_from = 0, (-1, 0)
        self.found = self.found_idle = 0

    def emit_admission(self, t0: int, t1: int) -> None:
        """The schedule() call [t0, t1] admitted it: its lookup and its blocks."""
        emit, key = active.emit, self.key
        emit(Kind.ENG_SCHEDULED, key, t0, t1, self.hit, self.external)
        # A try of an earlier step is not the admitting one.
        if self.lookup_start >= t0:
            self.emit_lookup()
        if self.alloc_start >= t0:
            emit(
                Kind.ENG_ALLOCATE,
                key,
                self.alloc_start,
                self.alloc_end,
                self.alloc_blocks << 32 | self.alloc_evicted,
                self.alloc_ns,
                self.alloc_tries,
            )

    def emit_lookup(self) -> None:
        """The prefix cache's lookup that counts: of the step that admits it, or that loads."""
        active.emit(
            Kind.ENG_LOOKUP,
            self.key,
            self.lookup_start,
            self.lookup_end,
            self.asked << 32 | self.hit,
            self.lookup_ns,
            self.lookup_tries,
        )
        if self.lookup_tries > 1:
            active.emit(Kind.ENG_TRIED, self.key, 0, 0, self.tries_asked, self.tries_hit)

    def emit_end(self, now: int, finish_code: int, steps: int, batch_sum: int) -> None:
        """The scheduler frees it."""
        emit, key = active.emit, self.key
        if self.decode_alloc_calls:
            emit(
                Kind.ENG_DECODE_KV,
                key,
                self.decode_alloc_ns,
                self.decode_alloc_calls,
                self.decode_blocks,
                self.decode_evicted,
            )
        emit(
            Kind.ENG_FINISHED,
            key,
            now,
            self.chunks,
            steps,
            batch_sum,
            self.preemptions,
            finish_code,
        )


class Engine:
    """Counters of this EngineCore process."""

    __slots__ = (
        "allocated_from",
        "allocated_to",
        "allocation_failed",
        "allocation_ns",
        "allocations",
        "batch_sum",
        "block_bytes",
        "block_size",
        "deferred",
        "event_at",
        "evicted",
        "head",
        "numbers",
        "pool",
        "preempted_at",
        "preempted_in_step",
        "prefilling",
        "requests",
        "step_number",
        "steps",
        "told_key",
        "told_members",
        "told_number",
    )

    def __init__(self) -> None:
        self.requests: dict[str, Scheduled] = {}
        self.prefilling: dict[str, Scheduled] = {}
        self.deferred: dict[str, Scheduled] = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything, in place: at start and in a forked child."""
        self.requests.clear()
        self.prefilling.clear()
        self.deferred.clear()
        self.steps = self.batch_sum = self.evicted = self.numbers = 0
        self.head = (0, "")
        # Of the device's cache: tokens and bytes of a block, and the id of its pool.
        self.block_size = self.block_bytes = self.pool = 0
        # Of the step timeline: steps recorded, when EngineCore last ended a schedule() or an
        # update_from_output() of a step with requests in it (before the first: when it took in
        # the request that found it empty), the members last told.
        self.step_number = self.event_at = 0
        self.told_members: set[str] | None = None
        self.told_key = self.told_number = 0
        self.begin_step()

    def begin_step(self) -> None:
        """What is counted within one `schedule()`."""
        self.allocation_failed = False
        self.preempted_in_step = self.preempted_at = 0
        self.allocated_from = self.allocated_to = self.allocation_ns = self.allocations = 0

    def forget(self, request_id: str) -> Scheduled | None:
        self.prefilling.pop(request_id, None)
        self.deferred.pop(request_id, None)
        return self.requests.pop(request_id, None)


ENGINE = Engine()
os.register_at_fork(after_in_child=ENGINE.reset)
