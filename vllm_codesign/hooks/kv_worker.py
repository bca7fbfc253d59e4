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
from vllm_codesign.recorder.active import clock
from vllm_codesign.recorder.layout import Kind, KVCall, KVDone


class Layers:
    """Sums over the layers of one step; and when transfers were last asked for."""

    __slots__ = ("asked_at", "calls", "inside", "load_ns", "save_ns", "step")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.asked_at = 0
        self.inside = False
        self.begin(0)

    def begin(self, step: int) -> None:
        """Nothing yet of this step; what is left of one that failed is nobody's."""
        self.step = step
        self.load_ns = self.save_ns = self.calls = 0


LAYERS = Layers()
os.register_at_fork(after_in_child=LAYERS.reset)
_MOST_CALLS = (1 << 24) - 1


def load_started(t0: int, t1: int, _result: Any, _connector: int, _self: Any) -> None:
    """`start_load_kv`: before the layers, or after them where no load is synchronous."""
    # Of a connector within another the outer one's call tells.
    if WORKER.key and not CONNECTORS.calls:
        active.emit(Kind.WORKER_KV, WORKER.key, t0, t1, 0, 0, KVCall.START_LOAD, WORKER.rank)


def save_awaited(t0: int, t1: int, _result: Any, _connector: int, owner: Any) -> None:
    """`wait_for_save`: after all layers, so their sums are told with it."""
    if WORKER.key and not CONNECTORS.calls:
        _emit_save(WORKER.key, t0, t1)
    kv_stores.ordered(t0, owner)


def _emit_save(step: int, t0: int, t1: int) -> None:
    layers = LAYERS
    if layers.step != step:
        layers.begin(step)
    calls = min(layers.calls, _MOST_CALLS) << 8 | KVCall.WAIT_FOR_SAVE
    active.emit(Kind.WORKER_KV, step, t0, t1, layers.load_ns, layers.save_ns, calls, WORKER.rank)
    layers.begin(step)


def make_layer(field: str) -> Callable[[Callable[..., Any], tuple[Getter, ...]], Wrapper]:
    """`wait_for_layer_load` and `save_kv_layer`, called for each layer of each step."""

    def make(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
        layers, worker = LAYERS, WORKER

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            step = worker.key
            if not step or layers.inside:
                return original(*args, **kwargs)
            if layers.step != step:
                layers.begin(step)
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
