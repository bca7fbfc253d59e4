"""Single stores of LMCache's connector in multi-process mode, as a worker sees them end.

vLLM is told of a request only when all its stores are over. The connector's adapter knows each:
from its order to the poll that finds it done it has a future in `store_futures`, by request. A
later store of a request takes the place of one that no poll has found done: the end of both is
then that of the later one. By shape, as `kv_metadata`: what has no such futures tells nothing.
"""

from __future__ import annotations

import os
from typing import Any

from vllm_codesign.hooks.kv_metadata import stores_of
from vllm_codesign.hooks.worker import WORKER
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Kind


class Store:
    """Ordered and not yet seen to be over."""

    __slots__ = ("count", "since", "tokens")

    def __init__(self, since: int) -> None:
        self.since = since
        self.tokens = self.count = 0


STORES: dict[str, Store] = {}
"""By request."""
os.register_at_fork(after_in_child=STORES.clear)


def ordered(t0: int, connector: Any) -> None:
    """`wait_for_save` has handed this step's stores on; it was called at `t0`."""
    futures = _futures(connector)
    if not futures:
        return
    for request_id, tokens, _ in stores_of(connector._connector_metadata, connector, 0, None):
        if request_id not in futures:
            continue  # dropped: the server is not there
        store = STORES.get(request_id)
        if store is None:
            store = STORES[request_id] = Store(t0)
        store.tokens += tokens
        store.count += 1


def polled(t1: int, before: int, connector: Any) -> None:
    """`get_finished` returns; `before`: when it did so last."""
    if not STORES:
        return
    futures = _futures(connector)
    if futures is None:
        return  # another connector's poll
    for request_id in [each for each in STORES if each not in futures]:
        store = STORES.pop(request_id)
        active.emit(
            Kind.WORKER_KV_STORED,
            active.key_of(request_id),
            store.since,
            t1,
            store.tokens << 32 | store.count,
            before,
            0,
            WORKER.rank,
        )


def _futures(connector: Any) -> dict[str, Any] | None:
    futures = getattr(getattr(connector, "worker_adapter", None), "store_futures", None)
    return futures if isinstance(futures, dict) else None
