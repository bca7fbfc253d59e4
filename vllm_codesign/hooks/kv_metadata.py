"""Reads what a connector tells its workers to store: each has metadata of its own kind.

By shape, not by class: the same shape comes from vLLM and from LMCache, in several versions. Of
a shape that is not known nothing is told; the request's store is then known by its end alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Store = tuple[str, int, int]
"""Request id, tokens, blocks."""


def stores_of(
    metadata: Any, connector: Any, block_size: int, scheduler_output: Any
) -> Iterator[Store]:
    """What is to be stored in this step, request by request.

    `block_size`: tokens of a block; 0 where it does not say, with several groups of KV caches.
    """
    jobs = getattr(metadata, "store_jobs", None)
    if jobs:  # OffloadingConnector: blocks of all groups, not tokens
        for job in jobs.values():
            blocks = len(job.src_spec.block_ids)
            yield job.req_id, blocks * block_size, blocks
        return
    for request in getattr(metadata, "requests", ()) or ():
        found = _store(request, connector, scheduler_output)
        if found is not None:
            yield found


def _store(request: Any, connector: Any, scheduler_output: Any) -> Store | None:
    operation = getattr(request, "op", None)
    if operation is not None:  # LMCacheMPConnector
        if request.direction != "STORE":
            return None
        return (
            request.request_id,
            operation.end - operation.start,
            _count(operation.block_ids),
        )
    plan = getattr(request, "save_spec", None)
    if plan is not None:  # LMCacheConnectorV1
        if not plan.can_save:
            return None
        tokens = len(request.token_ids) - plan.skip_leading_tokens
        return (request.req_id, tokens, 0) if tokens > 0 else None
    if getattr(request, "is_store", False):  # ExampleConnector: it names no request
        tokens, size = len(request.slot_mapping), _block_size(connector)
        if not tokens or not size:
            return None
        # All of them: requests of one step may share their first blocks.
        blocks = [int(slot) // size for slot in request.slot_mapping[::size]]
        for new in scheduler_output.scheduled_new_reqs:
            if list(new.block_ids[0][: len(blocks)]) == blocks:
                return new.req_id, tokens, -(-tokens // size)
    return None


def _count(block_ids: Any) -> int:
    """Blocks of a list, or of one list for each group."""
    return sum(len(b) if isinstance(b, list | tuple) else 1 for b in block_ids)


def _block_size(connector: Any) -> int:
    size = connector._vllm_config.cache_config.block_size
    return int(size or 0)
