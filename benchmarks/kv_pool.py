"""vLLM's own cache manager without a model, with EngineCore's hooks on it or without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace as Stub
from typing import Any

from benchmarks.micro_cases import wrapped
from vllm_codesign.hooks import engine_core
from vllm_codesign.hooks.block_life import BLOCKS, REMEMBERED_POOLS
from vllm_codesign.hooks.engine_state import ENGINE
from vllm_codesign.micro.block_hashes import hasher, request_of
from vllm_codesign.recorder import active, session
from vllm_codesign.settings import DEFAULT_RING_BYTES

CHUNK_TOKENS = 2_048
"""Prompt tokens of a step."""

_ROWS = {
    "kv.lookup": ("manager", "get_computed_blocks"),
    "kv.allocate": ("manager", "allocate_slots"),
    "kv.get_new_blocks": ("pool", "get_new_blocks"),
    "kv.cache_blocks": ("pool", "cache_full_blocks"),
}


class Pool:
    """A `KVCacheManager` with room for one prompt of `tokens` and a block or two more."""

    def __init__(self, block_size: int, tokens: int) -> None:
        from vllm.v1.core.kv_cache_manager import KVCacheManager

        from vllm_codesign.micro.scheduler_built import kv_cache_config

        self.block_size = block_size
        self.manager = KVCacheManager(
            kv_cache_config(block_size, tokens // block_size + 3),
            max_model_len=2 * tokens,
            scheduler_block_size=block_size,
            hash_block_size=block_size,
        )
        self._hasher = hasher("sha256", block_size)
        self._found: dict[str, tuple[Any, int]] = {}

    @staticmethod
    def record_into(folder: Path) -> None:
        """A ring in shared memory, as a server has it; nobody reads it."""
        joined = session.create(folder, 1, {})
        active.activate(joined, "process", DEFAULT_RING_BYTES)
        joined.level = 2

    def request(self, name: str, tokens: list[int]) -> Any:
        """In the waiting queue, its blocks hashed."""
        request = request_of(name, tokens, self._hasher)
        if ENGINE.pool == id(self.manager.block_pool):
            scheduler = Stub(waiting=[request], running=[], requests={name: request})
            engine_core._queued(0, 1, None, scheduler, request)
        return request

    def look_up(self, request: Any) -> None:
        blocks, count, *_ = self.manager.get_computed_blocks(request)
        self._found[request.request_id] = blocks, count

    def allocate(self, request: Any) -> None:
        """All that the prompt needs, chunk by chunk as it is computed; each is cached at once."""
        blocks, found = self._found.pop(request.request_id, (None, 0))
        while request.num_computed_tokens + found < request.num_tokens:
            rest = request.num_tokens - request.num_computed_tokens - found
            new = min(rest, CHUNK_TOKENS)
            got = self.manager.allocate_slots(
                request,
                num_new_tokens=new,
                num_new_computed_tokens=found,
                new_computed_blocks=blocks,
            )
            if got is None:
                raise RuntimeError("the pool is too small for one prompt")
            request.num_computed_tokens += found + new
            blocks, found = None, 0

    def free(self, request: Any) -> None:
        self.manager.free(request)
        ENGINE.forget(request.request_id)

    def empty(self) -> None:
        if not self.manager.reset_prefix_cache():
            raise RuntimeError("a request still has blocks")
        BLOCKS.reset()

    def remember(self) -> None:
        """As many hashes as a server remembers that has run for long."""
        for number in range(REMEMBERED_POOLS * self.manager.block_pool.num_gpu_blocks):
            BLOCKS.seen[number.to_bytes(36, "big")] = None


@contextmanager
def hooked(pool: Pool) -> Iterator[None]:
    """The rows of EngineCore's table on this manager, as the installer would lay them."""
    targets = {"manager": type(pool.manager), "pool": type(pool.manager.block_pool)}
    before = {(owner, name): getattr(targets[owner], name) for owner, name in _ROWS.values()}
    ENGINE.pool, ENGINE.block_size = id(pool.manager.block_pool), pool.block_size
    for row, (owner, name) in _ROWS.items():
        setattr(targets[owner], name, wrapped(row, before[owner, name]))
    pool.remember()
    try:
        yield
    finally:
        for (owner, name), original in before.items():
            setattr(targets[owner], name, original)
        ENGINE.reset()
        BLOCKS.reset()
