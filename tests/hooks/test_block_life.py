"""Owners of cached blocks on plain objects."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hooks.engine import Scheduler, queue, request
from vllm_codesign.hooks import block_life, engine_core
from vllm_codesign.hooks.block_life import BLOCKS, NOBODY
from vllm_codesign.hooks.engine_state import ENGINE, Scheduled
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.recorder.active import key_of
from vllm_codesign.recorder.layout import Kind

POOL = SimpleNamespace(num_gpu_blocks=8)
GROUP = bytes(4)


@pytest.fixture(autouse=True)
def fresh(recording: Any) -> Iterator[None]:
    ENGINE.reset()
    BLOCKS.reset()
    ENGINE.block_size, ENGINE.block_bytes, ENGINE.pool = 16, 100, id(POOL)
    yield
    ENGINE.reset()
    BLOCKS.reset()


def blocks(*numbers: int, hashed: bool = True) -> list[Any]:
    return [
        SimpleNamespace(block_id=n, block_hash=bytes([n]) + GROUP if hashed else None, ref_cnt=1)
        for n in numbers
    ]


def new(name: str, tokens: int = 100) -> tuple[Any, Scheduled]:
    made = request(name, num_tokens=tokens, block_hashes=[bytes([n]) for n in range(1, 7)])
    queue(Scheduler(), made)
    return made, ENGINE.requests[name]


def cache(made: Any, *numbers: int, pool: Any = POOL) -> None:
    block_life.cached(0, 0, None, pool, made, blocks(*numbers), 0, len(numbers), 0)


def test_whose_blocks_an_allocation_took(recording: Any) -> None:
    a, state_a = new("a")
    cache(a, 1, 2, 3)
    state_a.owner.freed_at = 500
    _, state_b = new("b")
    recording.take()
    assert block_life.taken(blocks(2, 3, 7), 2) == 2
    block_life.allocated(state_b, 900, None)
    (evicted,) = recording.take()
    assert (evicted.kind, evicted.key) == (Kind.KV_EVICTED, key_of("b"))
    assert (evicted.t0, evicted.t1, evicted.b) == (900, 500, 2)
    assert evicted.a & (1 << 64) - 1 == key_of("a")
    block_life.allocated(state_b, 950, None)
    assert recording.take() == [], "told once"


def test_who_finds_blocks_owns_them(recording: Any) -> None:
    a, state_a = new("a")
    cache(a, 1, 2)
    state_a.owner.freed_at = 500
    _, state_b = new("b")
    block_life.allocated(state_b, 900, SimpleNamespace(blocks=(blocks(1, 2),)))
    recording.take()
    block_life.admitted(state_b, 1000)
    (found,) = recording.take()
    assert (found.kind, found.t0, found.t1) == (Kind.ENG_BLOCKS, 1000, 600)
    assert (found.a >> 32, found.a & 0xFFFFFFFF, found.b) == (0, 2, 100)
    assert BLOCKS.owners[1] is state_b.owner


def test_tokens_that_were_cached_once_are_computed_again() -> None:
    """Behind what is found, as far as nothing new comes; the last token never counts."""
    a, _ = new("a", 96)
    cache(a, 1, 2, 3, 4, 5, 6)
    _, state = new("b", 96)
    block_life.looked_up(state, prompt(96), 16)
    assert state.again == 4 * 16, "of six blocks one is found and the last is never used whole"
    block_life.looked_up(state, prompt(97), 16)
    assert state.again == 5 * 16, "the same number found, of a prompt that may use one more"
    block_life.looked_up(state, prompt(97), 32)
    assert state.again == 4 * 16


def prompt(tokens: int) -> Any:
    return SimpleNamespace(num_tokens=tokens, block_hashes=[bytes([n]) for n in range(1, 7)])


def test_what_a_connector_brings_is_not_computed(recording: Any) -> None:
    a, _ = new("a")
    cache(a, 1, 2, 3)
    _, state = new("b")
    block_life.looked_up(state, prompt(100), 0)
    assert state.again == 48
    state.external = 32
    recording.take()
    block_life.admitted(state, 7)
    (record,) = recording.take()
    assert record.a >> 32 == 16


@pytest.mark.parametrize(("done", "pool"), [(False, POOL), (True, SimpleNamespace())])
def test_a_reset_that_failed_or_of_another_pool_changes_nothing(done: bool, pool: Any) -> None:
    a, _ = new("a")
    cache(a, 1, 2, 3)
    block_life.emptied(0, 0, done, pool)
    assert set(BLOCKS.owners) == {1, 2, 3}


def test_a_reset_is_no_eviction() -> None:
    a, _ = new("a")
    cache(a, 1, 2, 3)
    block_life.emptied(0, 0, True, POOL)
    _, state = new("b")
    block_life.looked_up(state, prompt(100), 0)
    assert state.again == 0
    block_life.taken(blocks(1, 2), 0)
    assert BLOCKS.evicting == {}


def test_another_pool_of_the_same_class_is_not_the_devices() -> None:
    a, _ = new("a")
    cache(a, 1)
    cache(a, 2, pool=SimpleNamespace(num_gpu_blocks=8))
    assert set(BLOCKS.owners) == {1}


def test_hashes_are_not_kept_for_ever() -> None:
    a, _ = new("a")
    small = SimpleNamespace(num_gpu_blocks=1)
    ENGINE.pool = id(small)
    for number in range(20):
        cache(a, number, pool=small)
    assert list(BLOCKS.seen) == [bytes([n]) + GROUP for n in range(16, 20)]


def test_blocks_without_a_hash_have_no_owner() -> None:
    a, _ = new("a")
    block_life.cached(0, 0, None, POOL, a, blocks(1, hashed=False), 0, 1, 0)
    assert BLOCKS.owners == {}


class Pool:
    """As `BlockPool` hands blocks out."""

    def __init__(self, cached: int) -> None:
        self.num_gpu_blocks = 8
        self.cached_block_hash_to_block = dict.fromkeys(range(cached))

    def get_new_blocks(self, count: int) -> list[Any]:
        for key in range(count):
            self.cached_block_hash_to_block.pop(key, None)
        return blocks(*range(1, count + 1))


def take(pool: Pool, count: int) -> None:
    method = Pool.get_new_blocks
    engine_core.make_get_blocks(method, getters_for(method, ("self",)))(pool, count)


def test_only_what_the_devices_pool_hands_out_is_evicted() -> None:
    mine, other = Pool(5), Pool(5)
    ENGINE.pool = id(mine)
    a, _ = new("a")
    cache(a, 1, 2, 3, pool=mine)
    take(other, 2)
    assert (ENGINE.evicted, BLOCKS.evicting) == (0, {})
    take(mine, 2)
    assert (ENGINE.evicted, sum(BLOCKS.evicting.values())) == (2, 2)


def test_what_changes_hands_while_dormant_is_nobodys(recording: Any) -> None:
    pool = Pool(5)
    ENGINE.pool = id(pool)
    a, _ = new("a")
    cache(a, 1, 2, 3, pool=pool)
    recording.session.level = 0
    ENGINE.requests.clear()
    take(pool, 1)
    recording.session.level = 1
    take(pool, 3)
    assert BLOCKS.evicting == {NOBODY: 2}


def test_the_scheduler_says_which_pool_is_the_devices() -> None:
    pool = SimpleNamespace()
    config = SimpleNamespace(
        num_blocks=10, kv_cache_tensors=[SimpleNamespace(size=640)] * 2, kv_cache_groups=[1]
    )
    scheduler = Scheduler(
        kv_cache_config=config,
        kv_cache_manager=SimpleNamespace(block_pool=pool),
        block_size=32,
    )
    ENGINE.reset()
    queue(scheduler, request("a"))
    assert (ENGINE.pool, ENGINE.block_bytes, ENGINE.block_size) == (id(pool), 128, 32)
    ENGINE.reset()
    config.kv_cache_groups = [1, 2]
    queue(scheduler, request("b"))
    assert ENGINE.block_size == 0, "blocks of several kinds do not say how many tokens they hold"


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    """In a server that has run for long each cached block adds one and drops one."""
    made, _ = new("a")
    limit = block_life.REMEMBERED_POOLS * POOL.num_gpu_blocks
    for number in range(limit + 5):
        cache(made, 100 + number)
    assert len(BLOCKS.seen) == limit
    hashes = list(BLOCKS.seen)
    cache(made, 250)
    assert list(BLOCKS.seen)[:-1] == hashes[1:]
