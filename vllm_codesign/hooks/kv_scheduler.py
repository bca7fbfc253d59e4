"""A connector's calls in EngineCore: what it has, what it loads and stores, and for whom."""

from __future__ import annotations

from typing import Any

from vllm_codesign.hooks import block_life
from vllm_codesign.hooks.engine_state import ENGINE, Scheduled
from vllm_codesign.hooks.kv_metadata import stores_of
from vllm_codesign.hooks.kv_state import IN_FLIGHT, Lookup, Planned, Stored, Transfers
from vllm_codesign.hooks.steps import ATTRIBUTE
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Kind, KVFlag


def _transfers(state: Scheduled) -> Transfers:
    if state.kv is None:
        state.kv = Transfers(state.key)
    return state.kv


def looked_up(
    t0: int, t1: int, result: Any, connector: int, _self: Any, request: Any, computed: int
) -> None:
    """`get_num_new_matched_tokens`: tokens (None: ask again later), and whether the load of
    them is asynchronous."""
    state = ENGINE.requests.get(request.request_id)
    if state is None:
        return
    transfers = _transfers(state)
    lookup = transfers.lookups.get(connector)
    if lookup is None:
        lookup = transfers.lookups[connector] = Lookup()
    tokens, asynchronous = result
    lookup.start, lookup.end = t0, t1
    lookup.ns += t1 - t0
    lookup.calls += 1
    lookup.computed = computed
    lookup.asked = max(request.num_tokens - computed, 0)
    lookup.hit, lookup.pending = tokens or 0, tokens is None
    lookup.asynchronous = bool(asynchronous and tokens)


def allocated(
    _t0: int, t1: int, _result: Any, connector: int, _self: Any, request: Any, tokens: int
) -> None:
    """`update_state_after_alloc`: the blocks are there; `tokens` of them are to be loaded."""
    state = ENGINE.requests.get(request.request_id)
    if state is None:
        return
    transfers = _transfers(state)
    transfers.name(connector)
    lookup = transfers.lookups.pop(connector, None)
    if lookup is not None:
        lookup.emit(state.key, connector)
    if not tokens:
        return
    transfers.before = lookup.computed if lookup is not None else state.hit
    transfers.loading = tokens
    asynchronous = lookup is not None and lookup.asynchronous
    IN_FLIGHT.planned.append(
        Planned(
            transfers,
            connector | (KVFlag.ASYNCHRONOUS if asynchronous else 0),
            t1,
            tokens,
            request.request_id if asynchronous else "",
        )
    )
    if asynchronous and not state.admitted:
        state.emit_lookup()  # it is not looked up again when it is admitted


def planned(
    t0: int, _t1: int, result: Any, connector: int, owner: Any, scheduler_output: Any
) -> None:
    """`build_connector_meta`: what the workers are told to store."""
    size = ENGINE.block_size
    for request_id, tokens, blocks in stores_of(result, owner, size, scheduler_output):
        state = ENGINE.requests.get(request_id)
        if state is None:
            continue
        transfers = _transfers(state)
        stored = transfers.stores.get(connector)
        if stored is None:
            stored = transfers.stores[connector] = Stored(t0)
        stored.last = t0
        stored.tokens += tokens
        stored.blocks += blocks
        IN_FLIGHT.storing.append((state.key, connector, stored))


def finished(_t0: int, t1: int, result: Any, connector: int, _self: Any, request: Any) -> None:
    """`request_finished`: does the connector still need the blocks of a request that is over?"""
    state = ENGINE.requests.get(request.request_id)
    if state is None or not result[0]:
        return
    transfers = _transfers(state)
    transfers.name(connector)
    stored = transfers.stores.get(connector)
    if stored is None:
        stored = transfers.stores[connector] = Stored(t1)
    stored.kept = True
    IN_FLIGHT.sending[request.request_id] = state.key
    IN_FLIGHT.asked_at = IN_FLIGHT.asked_at or t1


def note_freed(transfers: Transfers) -> None:
    """The scheduler is done with the request: what is left to tell of it."""
    for connector, lookup in transfers.lookups.items():  # it ended before it was admitted
        transfers.name(connector)
        lookup.emit(transfers.key, connector)
    for connector, stored in transfers.stores.items():
        transfers.name(connector)
        stored.emit(transfers.key, connector, ENGINE.block_bytes)


def note_schedule(t1: int, result: Any, scheduler: Any) -> None:
    """`schedule()` returns: which step starts the loads and stores that it planned."""
    step = getattr(result, ATTRIBUTE, 0)
    block_size = ENGINE.block_size  # 0: of several kinds, and a load does not say of which
    for load in IN_FLIGHT.planned:
        if load.request_id:
            IN_FLIGHT.loading[load.request_id] = load.transfers.key
        active.emit(
            Kind.KV_LOAD,
            load.transfers.key,
            load.at,
            t1,
            load.tokens << 32 | (-(-load.tokens // block_size) if block_size else 0),
            step,
            ENGINE.block_bytes,
            load.connector,
        )
    IN_FLIGHT.planned.clear()
    for key, connector, stored in IN_FLIGHT.storing:
        stored.step = step
        if step:
            active.emit(Kind.KV_ORDERED, key, stored.last, 0, 0, step, 0, connector)
    IN_FLIGHT.storing.clear()
    if IN_FLIGHT.loading or IN_FLIGHT.sending:
        IN_FLIGHT.asked_at = IN_FLIGHT.asked_at or t1


def note_output(t0: int, runner_output: Any) -> None:
    """`update_from_output()` begins: which transfers the workers say are over.

    A load that failed ends in the same output. It is told before its end, by the request's id,
    where blocks have no ids of their own; nothing of it counts then.
    """
    before, IN_FLIGHT.asked_at = IN_FLIGHT.asked_at, t0
    told = getattr(runner_output, "kv_connector_output", None)
    if told is not None:
        for request_id in getattr(told, "failed_recving", None) or ():
            if request_id in IN_FLIGHT.loading:
                _fail(t0, request_id, None)
        for kind, ids, open_ in (
            (Kind.KV_LOADED, told.finished_recving, IN_FLIGHT.loading),
            (Kind.KV_SENT, told.finished_sending, IN_FLIGHT.sending),
        ):
            for request_id in ids or ():
                if kind is Kind.KV_SENT:
                    block_life.sent(request_id, t0)
                key = open_.pop(request_id, 0)
                if key:
                    active.emit(kind, key, t0, before)
    if not IN_FLIGHT.loading and not IN_FLIGHT.sending:
        IN_FLIGHT.asked_at = 0


def invalidated(_t0: int, t1: int, result: Any, scheduler: Any) -> None:
    """Blocks could not be loaded: their requests compute them again, or fail."""
    for request_id in result[0]:
        request = scheduler.requests.get(request_id)
        if request is not None:
            _fail(t1, request_id, request.num_computed_tokens)


def _fail(at: int, request_id: str, left: int | None) -> None:
    """Tokens of the load that did not come; `left`: computed ones that the request still has."""
    state = ENGINE.requests.get(request_id)
    if state is None or state.kv is None:
        return
    before, loading = state.kv.before, state.kv.loading
    lost = loading if left is None else min(max(before + loading - left, 0), loading)
    if not state.admitted:
        state.external = max(state.external - lost, 0)
    active.emit(Kind.KV_FAILED, state.key, at, 0, lost)
