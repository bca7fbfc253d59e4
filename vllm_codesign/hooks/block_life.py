"""Whose the blocks of the prefix cache are, who takes them away, and what that costs.

vLLM's blocks have no owner. Here each cached block has one: the request that cached it or was
the last to find it there. A cached block that is taken for a request is an eviction, its owner's
loss; a prompt whose blocks had been cached and no longer are is computed again.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

from vllm_codesign.hooks.engine_state import ENGINE, Owner, Scheduled, Shared
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Kind

_FIRST_GROUP = bytes(4)
"""What follows the hash of a block in the key of the first KV cache group."""

REMEMBERED_POOLS = 4
"""Hashes are remembered for this many times the blocks of the pool."""


NOBODY = Owner(0)
"""Of blocks that were cached while we were dormant."""


class Blocks:
    """The cached blocks of this EngineCore's own pool, by their number."""

    __slots__ = ("emptied", "evicting", "owners", "seen", "sending")

    def __init__(self) -> None:
        self.owners: dict[int, Owner | Shared] = {}
        self.seen: OrderedDict[bytes, None] = OrderedDict()
        """Hashes that were cached once, oldest first: a plain dict walks over all that it has
        dropped before it comes to its oldest."""
        self.evicting: dict[Owner | Shared, int] = {}
        """Blocks taken within the allocation that is running."""
        self.sending: dict[str, Owner] = {}
        """Of requests that are over and whose blocks a connector still needs."""
        self.emptied = 0
        """How often hashes were forgotten."""

    def reset(self) -> None:
        """Nothing is cached, or nobody knows what is: at start, in a forked child, after a reset
        of the cache, and when blocks have changed hands while we were dormant."""
        self.owners.clear()
        self.seen.clear()
        self.evicting.clear()
        self.sending.clear()
        self.emptied += 1


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
    excess = len(seen) - REMEMBERED_POOLS * pool.num_gpu_blocks
    for _ in range(excess):
        seen.popitem(last=False)


def emptied(_t0: int, _t1: int, done: Any, pool: Any) -> None:
    """`reset_prefix_cache`: what is computed again after it was evicted by nobody."""
    if done and id(pool) == ENGINE.pool:
        BLOCKS.reset()


def dropped(_t0: int, pool: Any, block_ids: Any) -> None:
    """`evict_blocks` begins: what is in these is not what their hashes say. Nobody takes them,
    and nothing is computed again that had been right."""
    if id(pool) != ENGINE.pool:
        return
    owners, seen = BLOCKS.owners, BLOCKS.seen
    for block_id in block_ids:
        owners.pop(block_id, None)
        seen.pop(pool.blocks[block_id].block_hash, None)
    BLOCKS.emptied += 1


def taken(blocks: Any, fewer: int) -> int:
    """`get_new_blocks` took these and the cache has so many hashes fewer: how many were cached.

    Two requests that compute the same prompt leave two blocks with one hash, and the cache still
    has it when the first is taken: owners tell, and hashes only of blocks without one.
    """
    owners, evicting = BLOCKS.owners, BLOCKS.evicting
    count = 0
    if owners:
        pop = owners.pop
        for block in blocks:
            owner = pop(block.block_id, None)
            if owner is not None:
                count += 1
                evicting[owner] = evicting.get(owner, 0) + 1
    unknown = min(fewer, len(blocks)) - count
    if unknown > 0:
        evicting[NOBODY] = evicting.get(NOBODY, 0) + unknown
        count += unknown
    return count


def freed(request_id: str, owner: Owner, at: int, sending: bool) -> None:
    """The scheduler is done with the request; the blocks may have to be sent first."""
    if sending:
        BLOCKS.sending[request_id] = owner
    else:
        owner.freed_at = at


def sent(request_id: str, at: int) -> None:
    """A connector no longer needs the blocks of a request that is over."""
    owner = BLOCKS.sending.pop(request_id, None)
    if owner is not None:
        owner.freed_at = at


def looked_up(state: Scheduled, request: Any, hit: int) -> None:
    """How many tokens behind those found had been cached once."""
    since = (hit, BLOCKS.emptied)
    if state.again_from != since:
        state.again_from, state.again = since, 0
    seen, size = BLOCKS.seen, ENGINE.block_size
    if not seen or not size or hit % size:
        return
    hashes = request.block_hashes
    first, last = hit // size, (request.num_tokens - 1) // size
    # The head of the queue asks again each step: what was cached once stays so.
    count = first + state.again // size
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
    owners, found, idle = BLOCKS.owners, 0, 0
    heirs: dict[Owner | Shared, tuple[Owner | Shared, int]] = {}
    for group in computed.blocks:
        for block in group:
            before = owners.get(block.block_id)
            if before is None or before.key == state.key:
                continue
            if before not in heirs:
                freed_at = before.freed_at
                heirs[before] = (
                    (state.owner, t0 - freed_at) if freed_at else (Shared(state.owner, before), 0)
                )
            owners[block.block_id], lain = heirs[before]
            if block.ref_cnt == 1:  # its own: before this allocation nobody held it
                found += 1
                idle += lain
    if found:
        state.found, state.found_idle = found, idle // found


def admitted(state: Scheduled, at: int) -> None:
    """What the cache did for the request, and no longer could."""
    again = max(state.again - state.external, 0)
    if again or state.found:
        active.emit(
            Kind.ENG_BLOCKS,
            state.key,
            at,
            at - state.found_idle if state.found_idle else 0,
            again << 32 | state.found,
            ENGINE.block_bytes,
        )


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
