"""A connector's calls on a worker: how long the step waits for it, and which transfers end.

Layer by layer there is nothing but a sum: a record each would be thousands a step.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

from vllm_codesign.hooks import kv_stores
from vllm_codesign.hooks.kv_state import CONNECTORS
from vllm_codesign.hooks.table import Getter, Wrapper
from vllm_codesign.hooks.worker import WORKER
from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import LEVEL, clock
from vllm_codesign.recorder.layout import Kind, KVCall, KVDone


class Layers:
    """Since the last record: sums over the layers; and when transfers were last asked for."""

    __slots__ = ("asked_at", "calls", "inside", "load_ns", "save_ns")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.load_ns = self.save_ns = self.calls = self.asked_at = 0
        self.inside = False


LAYERS = Layers()
os.register_at_fork(after_in_child=LAYERS.reset)
_MOST_CALLS = (1 << 24) - 1


def _call(call: KVCall) -> Callable[..., None]:
    def advice(t0: int, t1: int, _result: Any, connector: int, _self: Any) -> None:
        # Of a connector within another the outer one's call tells.
        if not WORKER.key or CONNECTORS.calls:
            return
        calls = min(LAYERS.calls, _MOST_CALLS) << 8 | call
        active.emit(
            Kind.WORKER_KV, WORKER.key, t0, t1, LAYERS.load_ns, LAYERS.save_ns, calls, WORKER.rank
        )
        LAYERS.load_ns = LAYERS.save_ns = LAYERS.calls = 0

    return advice


load_started = _call(KVCall.START_LOAD)
_save_awaited = _call(KVCall.WAIT_FOR_SAVE)


def save_awaited(t0: int, t1: int, result: Any, connector: int, owner: Any) -> None:
    _save_awaited(t0, t1, result, connector, owner)
    kv_stores.ordered(t0, owner)


def make_layer(field: str) -> Callable[[Callable[..., Any], tuple[Getter, ...]], Wrapper]:
    """`wait_for_layer_load` and `save_kv_layer`, called for each layer of each step."""

    def make(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            layers = LAYERS
            if not LEVEL.byte[0] or layers.inside:
                return original(*args, **kwargs)
            layers.inside = True
            t0 = clock()
            try:
                return original(*args, **kwargs)
            finally:
                layers.inside = False
                layers.calls += 1
                setattr(layers, field, getattr(layers, field) + clock() - t0)

        return wrapper

    return make


def polled(_t0: int, t1: int, result: Any, _connector: int, owner: Any) -> None:
    """`get_finished`: (sent, received), or with failures where `get_transfer_results` tells."""
    kv_stores.polled(t1, LAYERS.asked_at, owner)
    if CONNECTORS.calls:
        return
    before, LAYERS.asked_at = LAYERS.asked_at, t1
    if isinstance(result, tuple):
        told: tuple[tuple[KVDone, Iterable[str] | None], ...] = (
            (KVDone.SENT, result[0]),
            (KVDone.RECEIVED, result[1]),
        )
    else:
        told = (
            (KVDone.SENT, result.finished_sending),
            (KVDone.RECEIVED, result.finished_recving),
            (KVDone.FAILED, result.failed_recving),
        )
    for what, ids in told:
        for request_id in ids or ():
            key = active.key_of(request_id)
            active.emit(Kind.WORKER_KV_DONE, key, t1, before, what, 0, 0, WORKER.rank)
