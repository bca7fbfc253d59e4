"""Whose the blocks of the prefix cache are, who takes them away, and what that costs.

vLLM's blocks have no owner. Here each cached block has one: the request that cached it or was
the last to find it there. A block that is taken for another request is that owner's loss; a
prompt whose blocks had been cached and no longer are is computed again.
"""

from __future__ import annotations

import os
from typing import Any

from vllm_codesign.hooks.engine_state import ENGINE, Owner, Scheduled
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Kind

_FIRST_GROUP = bytes(4)
"""What follows the hash of a block in the key of the first KV cache group."""

_REMEMBERED_POOLS = 4
"""Hashes are remembered for this many times the blocks of the pool."""


class Blocks:
    """The cached blocks of this EngineCore's own pool, by their number."""

    __slots__ = ("evicting", "owners", "seen")

    def __init__(self) -> None:
        self.owners: dict[int, Owner] = {}
        self.seen: dict[bytes, None] = {}
        """Hashes that were cached once, oldest first."""
        self.evicting: dict[Owner, int] = {}
        """Blocks taken within the allocation that is running."""

    def reset(self) -> None:
        """Nothing is cached, or nobody knows what is: at start, in a forked child, after a reset
        of the cache, and when blocks have changed hands while we were dormant."""
        self.owners.clear()
        self.seen.clear()
        self.evicting.clear()


BLOCKS = Blocks()
os.register_at_fork(after_in_child=BLOCKS.reset)


def cached(
    _t0: int,
    _t1: int,
    _result: Any,
    pool: Any,
    request: Any,
    blocks: Any,
    before: int,
    full: int,
    group: int,
) -> None:
    """`cache_full_blocks`: these are the request's from now on."""
    state = ENGINE.requests.get(request.request_id)
    if state is None or full <= before or id(pool) != ENGINE.pool:
        return
    owner, owners, seen = state.owner, BLOCKS.owners, BLOCKS.seen
    for block in blocks[before:full]:
        block_hash = block.block_hash
        if block_hash is not None:
            owners[block.block_id] = owner
            if not group:
                seen[block_hash] = None
    excess = len(seen) - _REMEMBERED_POOLS * pool.num_gpu_blocks
    if excess > 0:
        for block_hash in list(seen)[:excess]:
            del seen[block_hash]


def emptied(_t0: int, _t1: int, done: Any, pool: Any) -> None:
    """`reset_prefix_cache`: what is computed again after it was evicted by nobody."""
    if done and id(pool) == ENGINE.pool:
        BLOCKS.reset()


def taken(blocks: Any) -> None:
    """`get_new_blocks` took these, some of which were cached."""
    owners, evicting = BLOCKS.owners, BLOCKS.evicting
    for block in blocks:
        owner = owners.pop(block.block_id, None)
        if owner is not None:
            evicting[owner] = evicting.get(owner, 0) + 1


def looked_up(state: Scheduled, request: Any, hit: int) -> None:
    """How many tokens behind those found had been cached once."""
    if state.again_from == hit:
        return  # the head of the queue asks again each step
    state.again_from, state.again = hit, 0
    seen, size = BLOCKS.seen, ENGINE.block_size
    if not seen or not size or hit % size:
        return
    hashes = request.block_hashes
    first, last = hit // size, (request.num_tokens - 1) // size
    count = first
    while count < min(last, len(hashes)) and hashes[count] + _FIRST_GROUP in seen:
        count += 1
    state.again = (count - first) * size


def allocated(state: Scheduled | None, t0: int, computed: Any) -> None:
    """`allocate_slots` succeeded: whom it took blocks from, whose blocks it found.

    `computed`: the blocks found in the prefix cache, where there were any.
    """
    if BLOCKS.evicting:
        if state is not None:
            for owner, count in BLOCKS.evicting.items():
                active.emit(
                    Kind.KV_EVICTED, state.key, t0, owner.freed_at, _signed(owner.key), count
                )
        BLOCKS.evicting.clear()
    if state is None or state.admitted or computed is None:
        return
    owners, found, freed_at = BLOCKS.owners, 0, 0
    for group in computed.blocks:
        for block in group:
            before = owners.get(block.block_id)
            if before is not None and before is not state.owner:
                found += 1
                freed_at = max(freed_at, before.freed_at)
                owners[block.block_id] = state.owner
    if found:
        state.found, state.found_freed_at = found, freed_at


def admitted(state: Scheduled, at: int) -> None:
    """What the cache did for the request, and no longer could."""
    again = max(state.again - state.external, 0)
    if again or state.found:
        active.emit(
            Kind.ENG_BLOCKS,
            state.key,
            at,
            state.found_freed_at,
            again << 32 | state.found,
            ENGINE.block_bytes,
        )


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
