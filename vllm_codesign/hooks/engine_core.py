"""The table of EngineCore: input thread, scheduler, block manager.

One engine loop runs these, so module state needs no lock; only `preprocess_add_request`
runs in the input thread, and it keeps nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_codesign.hooks import block_life
from vllm_codesign.hooks.block_life import BLOCKS
from vllm_codesign.hooks.engine_state import ENGINE, FINISH_CODE, Scheduled
from vllm_codesign.hooks.kv_scheduler import note_freed, note_output, note_schedule
from vllm_codesign.hooks.kv_state import IN_FLIGHT
from vllm_codesign.hooks.queue_reasons import note_queue
from vllm_codesign.hooks.steps import STEP_LEVEL, note_step, note_update
from vllm_codesign.hooks.table import Getter, Hook, Wrapper
from vllm_codesign.hooks.wrap import entered, swallow, timed
from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import LEVEL, clock
from vllm_codesign.recorder.layout import Kind

_U32_MAX = 0xFFFFFFFF


def _preprocessed(t0: int, t1: int, _result: Any, request: Any) -> None:
    active.emit(Kind.ENG_PREPROCESS, active.key_of(request.request_id), t0, t1)


def _queued(_t0: int, t1: int, _result: Any, scheduler: Any, request: Any) -> None:
    request_id = request.request_id
    if request_id in ENGINE.requests:
        return  # a further chunk of a streaming input
    if not ENGINE.pool:
        _note_cache(scheduler)
    if not ENGINE.event_at and not scheduler.running:
        # Steps that are empty, while a connector looks blocks up, may come before the first. Where
        # others run, a step of theirs may be in flight that nobody told: then nothing is known.
        ENGINE.event_at = t1
    ENGINE.numbers += 1
    state = Scheduled(active.key_of(request_id), ENGINE.numbers)
    ENGINE.requests[request_id] = state
    active.emit(
        Kind.ENG_QUEUED,
        state.key,
        t1,
        state.number,
        request.num_prompt_tokens,
        len(scheduler.waiting),
        len(scheduler.running),
    )


def _note_cache(scheduler: Any) -> None:
    """The device's own cache: connectors have pools of the same class for theirs."""
    config = getattr(scheduler, "kv_cache_config", None)
    pool = getattr(getattr(scheduler, "kv_cache_manager", None), "block_pool", None)
    if config is None or pool is None:
        return  # the request is traced all the same
    ENGINE.pool = id(pool)
    total = sum(tensor.size for tensor in config.kv_cache_tensors)
    ENGINE.block_bytes = min(total // max(config.num_blocks, 1), _U32_MAX)
    if len(config.kv_cache_groups) == 1:  # else a block does not say how many tokens it holds
        ENGINE.block_size = scheduler.block_size


def _scheduled(t0: int, t1: int, result: Any, scheduler: Any) -> None:
    """One step is planned: who was admitted, who still computes its prompt, who waits."""
    requests, prefilling = ENGINE.requests, ENGINE.prefilling
    if ENGINE.preempted_at < t0:
        ENGINE.preempted_in_step = 0  # by reset_prefix_cache(), between two steps
    for new in result.scheduled_new_reqs:
        _admit(requests.get(new.req_id), new.req_id, t0, t1)
    for request_id in result.scheduled_cached_reqs.resumed_req_ids:
        _admit(requests.get(request_id), request_id, t0, t1)
    in_step = result.num_scheduled_tokens
    computing = set()
    for request_id, state in prefilling.items():
        if request_id in in_step:
            # Advanced by this step already. With async scheduling the first decode step
            # is planned before the first token is back.
            request = scheduler.requests[request_id]
            computed = request.num_computed_tokens - in_step[request_id]
            if computed < request.num_prompt_tokens:
                state.chunks += 1
                computing.add(request_id)
    reason = note_queue(t1, result, scheduler)
    if in_step and LEVEL.byte[0] >= STEP_LEVEL:
        note_step(t0, t1, result, scheduler, computing, reason)
    if IN_FLIGHT.planned or IN_FLIGHT.storing:
        note_schedule(t1, result, scheduler)
    if in_step:
        ENGINE.event_at = t1
    ENGINE.begin_step()


def _admit(state: Scheduled | None, request_id: str, t0: int, t1: int) -> None:
    if state is None:
        return  # came in while we were dormant
    if state.admitted:
        active.emit(Kind.ENG_SCHEDULED, state.key, t0, t1, 0, 0, 0, 1)
        return
    state.admitted = True
    ENGINE.prefilling[request_id] = state
    state.emit_admission(t0, t1)
    block_life.admitted(state, t0)


def make_update(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """`update_from_output`: counts the step first, since requests are freed within it."""
    get_self, get_step, get_output = getters

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        idle = not ENGINE.requests and not IN_FLIGHT.sending and not IN_FLIGHT.loading
        if idle and not LEVEL.byte[0]:
            ENGINE.event_at = 0  # what passes until we are awake again is not known
            return original(*args, **kwargs)
        t0 = clock()
        in_step = 0
        try:
            if IN_FLIGHT.loading or IN_FLIGHT.sending:
                note_output(t0, get_output(args, kwargs))
            in_step = len(get_step(args, kwargs).num_scheduled_tokens)
            if in_step:
                ENGINE.steps += 1
                ENGINE.batch_sum += in_step
        except Exception:  # noqa: BLE001
            swallow()
        result = original(*args, **kwargs)
        try:
            t1 = clock()
            if ENGINE.prefilling:
                _first_tokens(result)
            if in_step:
                note_update(
                    t0, t1, get_step(args, kwargs), get_output(args, kwargs), get_self(args, kwargs)
                )
        except Exception:  # noqa: BLE001
            swallow()
        return result

    return wrapper


def _first_tokens(result: Any) -> None:
    prefilling = ENGINE.prefilling
    for outputs in result.values():
        for output in outputs.outputs:
            if output.request_id in prefilling and output.new_token_ids:
                state = prefilling.pop(output.request_id)
                state.has_first = True
                state.step0, state.batch_sum0 = ENGINE.steps, ENGINE.batch_sum


def _preempted(t0: int, request: Any) -> None:
    ENGINE.preempted_in_step += 1
    ENGINE.preempted_at = t0
    state = ENGINE.requests.get(request.request_id)
    if state is not None:
        state.preemptions += 1
        active.emit(Kind.ENG_PREEMPTED, state.key, t0, 0, request.num_computed_tokens)


def _freed(_t0: int, t1: int, _result: Any, request: Any) -> None:
    state = ENGINE.forget(request.request_id)
    if state is None:
        return
    steps = ENGINE.steps - state.step0 if state.has_first else 0
    batch_sum = ENGINE.batch_sum - state.batch_sum0 if state.has_first else 0
    block_life.freed(
        request.request_id, state.owner, t1, sending=request.request_id in IN_FLIGHT.sending
    )
    if state.kv is not None:
        note_freed(state.kv)
    state.emit_end(t1, FINISH_CODE.get(request.status.name, 0), steps, batch_sum)


def _looked_up(t0: int, t1: int, result: Any, request: Any) -> None:
    state = ENGINE.requests.get(request.request_id)
    if state is None or state.admitted:
        return
    state.lookup_start, state.lookup_end = t0, t1
    state.lookup_ns += t1 - t0
    state.lookup_tries += 1
    # 0.19 returns two values, 0.32 three; the second is the number of tokens hit in both.
    state.asked, state.hit = request.num_tokens, result[1]
    state.tries_asked += state.asked
    state.tries_hit += state.hit
    block_life.looked_up(state, request, result[1])


def _looked_up_for_connector(t0: int, t1: int, result: Any, request: Any) -> None:
    """What a connector is told that extends a part of a hybrid model's groups by itself."""
    state = ENGINE.requests.get(request.request_id)
    if state is not None and not state.admitted and state.lookup_start >= t0:
        # It asked `get_computed_blocks`, whose lookup this one is.
        state.lookup_ns -= state.lookup_end - state.lookup_start
        state.lookup_tries -= 1
    _looked_up(t0, t1, result, request)


def make_allocate(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """`allocate_slots`: hot, once per running request and step, hence no record of its own."""
    get_request, get_external, get_computed = getters

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not LEVEL.byte[0] and not ENGINE.requests:
            return original(*args, **kwargs)
        evicted = ENGINE.evicted
        t0 = clock()
        blocks = original(*args, **kwargs)
        try:
            t1 = clock()
            took = t1 - t0
            ENGINE.allocations += 1
            ENGINE.allocation_ns += took
            ENGINE.allocated_from = ENGINE.allocated_from or t0
            ENGINE.allocated_to = t1
            # Whoever it was: where it led to a preemption, `queue_reasons` tells that first.
            if blocks is None:
                ENGINE.allocation_failed = True
            state = ENGINE.requests.get(get_request(args, kwargs).request_id)
            if blocks is not None:
                block_life.allocated(state, t0, get_computed(args, kwargs))
            if state is None:
                return blocks
            if state.admitted:
                state.decode_alloc_calls += 1
                state.decode_alloc_ns += took
                if blocks is not None:
                    state.decode_blocks += sum(map(len, blocks.blocks))
                    state.decode_evicted += ENGINE.evicted - evicted
                return blocks
            state.alloc_start, state.alloc_end = t0, t1
            state.alloc_ns += took
            state.alloc_tries += 1
            if blocks is not None:
                count, gone = sum(map(len, blocks.blocks)), ENGINE.evicted - evicted
                state.alloc_evicted += gone
                if get_request(args, kwargs).num_computed_tokens:
                    # A connector has loaded what it had: these are the blocks for the rest.
                    state.alloc_blocks += count
                else:
                    state.alloc_blocks = count
                    state.external = get_external(args, kwargs) or 0
        except Exception:  # noqa: BLE001
            swallow()
        return blocks

    return wrapper


def make_get_blocks(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """`get_new_blocks`: which cached blocks it took. Its blocks are gone through only where one
    of them can have been cached; an allocation of 100,000 tokens has 6,000."""
    get_self = getters[0]

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not LEVEL.byte[0] and not ENGINE.requests:
            if BLOCKS.owners:
                BLOCKS.reset()
            return original(*args, **kwargs)
        cached = None
        before = 0
        try:
            pool = get_self(args, kwargs)
            if id(pool) == ENGINE.pool:
                cached = pool.cached_block_hash_to_block
                before = len(cached)
        except Exception:  # noqa: BLE001
            swallow()
        result = original(*args, **kwargs)
        if cached is not None and (BLOCKS.owners or len(cached) != before):
            try:
                ENGINE.evicted += block_life.taken(result, before - len(cached))
            except Exception:  # noqa: BLE001
                swallow()
        return result

    return wrapper


def _fits(_t0: int, _t1: int, result: Any) -> None:
    if not result:
        ENGINE.allocation_failed = True


TABLE = "engine_core"
HOOKS: tuple[Hook, ...] = (
    Hook(
        "engine_core.preprocess",
        ("vllm.v1.engine.core:EngineCore.preprocess_add_request",),
        timed(_preprocessed),
        ("request",),
        required=False,  # an attribute of engine.dispatch
    ),
    Hook(
        "scheduler.add_request",
        ("vllm.v1.core.sched.scheduler:Scheduler.add_request",),
        timed(_queued),
        ("self", "request"),
    ),
    Hook(
        "scheduler.schedule",
        ("vllm.v1.core.sched.scheduler:Scheduler.schedule",),
        timed(_scheduled, while_open=ENGINE.requests),
        ("self",),
    ),
    Hook(
        "scheduler.update_from_output",
        ("vllm.v1.core.sched.scheduler:Scheduler.update_from_output",),
        make_update,
        ("self", "scheduler_output", "model_runner_output"),
    ),
    Hook(
        "scheduler.preempt",
        ("vllm.v1.core.sched.scheduler:Scheduler._preempt_request",),
        entered(_preempted, while_open=ENGINE.requests),
        ("request",),
    ),
    Hook(
        "scheduler.free",
        ("vllm.v1.core.sched.scheduler:Scheduler._free_request",),
        timed(_freed, while_open=ENGINE.requests),
        ("request",),
    ),
    Hook(
        "kv.lookup",
        ("vllm.v1.core.kv_cache_manager:KVCacheManager.get_computed_blocks",),
        timed(_looked_up, while_open=ENGINE.requests),
        ("request",),
    ),
    Hook(
        "kv.lookup_for_connector",
        ("vllm.v1.core.kv_cache_manager:KVCacheManager.get_computed_blocks_for_connector",),
        timed(_looked_up_for_connector, while_open=ENGINE.requests),
        ("request",),
        versions=("0.32", ""),
        required=False,  # hybrid models with NIXL or MoRIIO
    ),
    Hook(
        "kv.allocate",
        ("vllm.v1.core.kv_cache_manager:KVCacheManager.allocate_slots",),
        make_allocate,
        ("request", "num_external_computed_tokens", "new_computed_blocks"),
    ),
    Hook(
        "kv.get_new_blocks",
        ("vllm.v1.core.block_pool:BlockPool.get_new_blocks",),
        make_get_blocks,
        ("self",),
        required=False,  # the count of evictions
    ),
    Hook(
        "kv.cache_blocks",
        ("vllm.v1.core.block_pool:BlockPool.cache_full_blocks",),
        timed(block_life.cached, while_open=ENGINE.requests),
        (
            *("self", "request", "blocks"),
            *("num_cached_blocks", "num_full_blocks", "kv_cache_group_id"),
        ),
        required=False,  # whose blocks are evicted
    ),
    Hook(
        "kv.evict_blocks",
        ("vllm.v1.core.block_pool:BlockPool.evict_blocks",),
        entered(block_life.dropped, always=True),
        ("self", "block_ids"),
        required=False,
    ),
    Hook(
        "kv.reset_cache",
        ("vllm.v1.core.block_pool:BlockPool.reset_prefix_cache",),
        timed(block_life.emptied, while_open=("always",)),
        ("self",),
        required=False,
    ),
    Hook(
        "kv.can_fit",
        ("vllm.v1.core.kv_cache_manager:KVCacheManager.can_fit_full_sequence",),
        timed(_fits, while_open=ENGINE.requests),
        versions=("0.18", "0.32"),
        required=False,  # a second way in which blocks can be lacking
    ),
)
