"""Owners of cached blocks on vLLM's own pool and manager, through the rows that wrap them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hooks.engine import Scheduler, queue, request, step
from vllm_codesign.hooks import engine_core, kv_scheduler
from vllm_codesign.hooks.block_life import BLOCKS
from vllm_codesign.hooks.engine_state import ENGINE
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.hooks.kv_state import IN_FLIGHT
from vllm_codesign.recorder.layout import Kind

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
)
SIZE = 16


@pytest.fixture(autouse=True)
def fresh(recording: Any) -> Iterator[None]:
    for part in (ENGINE, BLOCKS, IN_FLIGHT):
        part.reset()
    yield
    for part in (ENGINE, BLOCKS, IN_FLIGHT):
        part.reset()


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    here = {"BlockPool": BlockPool, "KVCacheManager": KVCacheManager}
    for hook in engine_core.HOOKS:
        name, _, method = hook.targets[0].partition(":")[2].partition(".")
        if name in here and hasattr(here[name], method):
            original = getattr(here[name], method)
            wrapper = hook.make(original, getters_for(original, hook.reads))
            monkeypatch.setattr(here[name], method, wrapper)


@pytest.fixture
def manager(wrapped: None) -> Any:
    import torch
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    spec = FullAttentionSpec(block_size=SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32)
    config = KVCacheConfig(
        num_blocks=13, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
    )
    made = KVCacheManager(
        config, max_model_len=1000, scheduler_block_size=SIZE, hash_block_size=SIZE
    )
    ENGINE.pool, ENGINE.block_size, ENGINE.block_bytes = id(made.block_pool), SIZE, 100
    return made


def new(name: str, tokens: list[int]) -> Any:
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    init_none_hash(sha256)
    made = Request(
        request_id=name,
        prompt_token_ids=tokens,
        sampling_params=SamplingParams(max_tokens=9),
        pooling_params=None,
        block_hasher=get_request_block_hasher(SIZE, sha256),
    )
    queue(Scheduler(), made)
    return made


def admit(manager: Any, made: Any, at: int) -> None:
    found, hit = manager.get_computed_blocks(made)[:2]
    assert manager.allocate_slots(made, made.num_tokens - hit, hit, found) is not None
    engine_core._admit(ENGINE.requests[made.request_id], made.request_id, at, at)


def free(manager: Any, made: Any, at: int) -> None:
    manager.free(made)
    engine_core._freed(0, at, None, SimpleNamespace(request_id=made.request_id, status=_STOPPED))


_STOPPED = SimpleNamespace(name="FINISHED_STOPPED")
PREFIX, OTHER = list(range(64)), list(range(1000, 1064))


def at_once(manager: Any) -> None:
    """Two requests compute the same four blocks at the same time: eight blocks, four hashes."""
    a, b = new("a", PREFIX), new("b", PREFIX)
    empty = manager.empty_kv_cache_blocks
    for made in (a, b):
        assert manager.allocate_slots(made, 64, 0, empty) is not None
    assert len(manager.block_pool.cached_block_hash_to_block) == 4
    free(manager, a, 100)
    free(manager, b, 200)


def test_a_block_whose_hash_another_has_is_evicted_too(manager: Any, recording: Any) -> None:
    at_once(manager)
    recording.take()
    c = new("c", list(range(2000, 2128)))  # four free blocks and the four of the first
    admit(manager, c, 900)
    records = recording.take()
    told = [r for r in records if r.kind == Kind.KV_EVICTED]
    (allocated,) = (r for r in records if r.kind == Kind.ENG_ALLOCATE)
    assert [(r.b, r.t1) for r in told] == [(4, 100)]
    assert allocated.a & 0xFFFFFFFF == 4
    left = [owner.freed_at for owner in BLOCKS.owners.values()]
    assert sorted(left) == [0] * 8 + [200] * 4, "c's eight and b's four, none of a's"


def test_both_figures_agree_where_owners_are_not_known(manager: Any, recording: Any) -> None:
    for name, tokens in (("a", PREFIX), ("b", OTHER)):
        made = new(name, tokens)
        admit(manager, made, 10)
        free(manager, made, 100)
    for block_id in list(BLOCKS.owners)[4:]:
        del BLOCKS.owners[block_id]  # as if cached while dormant
    recording.take()
    admit(manager, new("c", list(range(2000, 2176))), 900)
    told = {r.a: r.b for r in recording.take() if r.kind == Kind.KV_EVICTED}
    assert ENGINE.requests["c"].alloc_evicted == sum(told.values()) == 7
    assert told[0] == 3


def test_blocks_whose_load_failed_are_nobodys(manager: Any, recording: Any) -> None:
    a = new("a", PREFIX)
    admit(manager, a, 10)
    free(manager, a, 100)
    assert len(BLOCKS.owners) == 4
    manager.evict_blocks(set(BLOCKS.owners))
    assert (BLOCKS.owners, BLOCKS.seen) == ({}, {})
    recording.take()
    admit(manager, new("b", PREFIX), 900)
    assert ENGINE.requests["b"].again == 0, "what they held was never right"
    assert [r for r in recording.take() if r.kind == Kind.KV_EVICTED] == []


def test_only_blocks_that_nobody_held_lay_idle(manager: Any, recording: Any) -> None:
    """A long prefix: its first half still runs, its second was freed."""
    a, b = new("a", PREFIX[:32]), new("b", PREFIX)
    admit(manager, a, 10)
    admit(manager, b, 20)
    free(manager, b, 1000)
    recording.take()
    c = new("c", [*PREFIX, *OTHER])
    admit(manager, c, 5000)
    (record,) = (r for r in recording.take() if r.kind == Kind.ENG_BLOCKS)
    assert record.a & 0xFFFFFFFF == 2
    idle = ENGINE.requests["c"].alloc_start - 1000
    assert record.t1 == 5000 - idle, "from b's end until c took them"


def test_a_prefix_is_idle_from_its_last_holders_end(manager: Any, recording: Any) -> None:
    """a computes it, b finds it and is over first: not b's end counts but a's."""
    a, b = new("a", PREFIX), new("b", [*PREFIX, *OTHER])
    admit(manager, a, 10)
    admit(manager, b, 20)
    shared = dict(list(BLOCKS.owners.items())[:4])
    free(manager, b, 1000)
    assert [owner.freed_at for owner in shared.values()] == [0] * 4, "a still has them"
    free(manager, a, 3000)
    assert [owner.freed_at for owner in shared.values()] == [3000] * 4
    own = [o.freed_at for i, o in BLOCKS.owners.items() if i not in shared]
    assert own == [1000] * 4


def test_what_is_computed_again_is_as_of_the_admission(manager: Any) -> None:
    """The same number found, but others have cached more since the first lookup."""
    late = new("late", [*PREFIX, 1])
    state = ENGINE.requests["late"]
    manager.get_computed_blocks(late)
    assert state.again == 0
    a = new("a", PREFIX)
    admit(manager, a, 10)
    free(manager, a, 100)
    admit(manager, new("big", list(range(3000, 3192))), 200)  # takes the whole pool
    manager.get_computed_blocks(late)
    assert (state.hit, state.again) == (0, 64)
    BLOCKS.reset()
    manager.get_computed_blocks(late)
    assert state.again == 0


def test_blocks_that_are_sent_are_not_idle(recording: Any) -> None:
    queue(Scheduler(), request("a"), request("b"))
    a, b = (ENGINE.requests[name].owner for name in "ab")
    IN_FLIGHT.sending["a"] = 7
    for name in "ab":
        engine_core._freed(0, 500, None, SimpleNamespace(request_id=name, status=_STOPPED))
    assert (a.freed_at, b.freed_at) == (0, 500)
    told = SimpleNamespace(finished_recving=None, finished_sending={"a"})
    kv_scheduler.note_output(900, SimpleNamespace(kv_connector_output=told))
    assert a.freed_at == 900


@pytest.mark.parametrize(("size", "blocks"), [(SIZE, 3), (0, 0)])
def test_a_load_into_several_groups_has_no_blocks(recording: Any, size: int, blocks: int) -> None:
    from vllm_codesign.hooks.kv_state import Planned, Transfers

    ENGINE.block_size = size
    IN_FLIGHT.planned.append(Planned(Transfers(7), 1, 5, 48, ""))
    kv_scheduler.note_schedule(9, step(), SimpleNamespace(block_size=SIZE))
    (load,) = recording.take()
    assert (load.a >> 32, load.a & 0xFFFFFFFF) == (48, blocks)


def test_the_connectors_lookup_is_the_lookup(recording: Any) -> None:
    """A hybrid model's: alone, around the other, and before the one that reconciles."""
    rows = {hook.id: hook for hook in engine_core.HOOKS}

    def wrap(row: str, method: Any) -> Any:
        return rows[row].make(method, getters_for(method, rows[row].reads))

    class Manager:
        nested = False

        def get_computed_blocks(self, request: Any) -> Any:
            return None, 32, 0

        def get_computed_blocks_for_connector(self, request: Any) -> Any:
            if self.nested:
                return *self.get_computed_blocks(request), False
            return None, 48, 0, True

    for row, name in (
        ("kv.lookup", "get_computed_blocks"),
        ("kv.lookup_for_connector", "get_computed_blocks_for_connector"),
    ):
        setattr(Manager, name, wrap(row, getattr(Manager, name)))
    made, manager = request("a"), Manager()
    queue(Scheduler(), made)
    state = ENGINE.requests["a"]
    manager.get_computed_blocks_for_connector(made)
    assert (state.hit, state.lookup_tries) == (48, 1)
    manager.get_computed_blocks(made)
    assert (state.hit, state.lookup_tries) == (32, 2)
    manager.nested, before = True, state.lookup_ns
    manager.get_computed_blocks_for_connector(made)
    assert (state.hit, state.lookup_tries) == (32, 3)
    assert state.lookup_ns - before == state.lookup_end - state.lookup_start
