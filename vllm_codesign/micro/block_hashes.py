"""vLLM's own hashes of a prompt's blocks, on a request of its own, without an engine."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

BLOCK_SIZES = (16, 128)
"""Tokens: vLLM's default on GPUs, and on CPUs."""
HASHES = ("sha256", "sha256_cbor", *(("xxhash",) if find_spec("xxhash") else ()))
"""Those of vLLM's (`--prefix-caching-hash-algo`) that are installed."""


def hasher(name: str, block_size: int) -> Callable[[Any], Any]:
    """vLLM's block hasher of a request."""
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

    function = get_hash_fn_by_name(name)
    init_none_hash(function)
    made: Callable[[Any], Any] = get_request_block_hasher(block_size, function)
    return made


def request_of(name: str, tokens: list[int], block_hasher: Callable[[Any], Any] | None) -> Any:
    """A request as EngineCore has it; its blocks are hashed at once where there is a hasher."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    return Request(name, tokens, SamplingParams(max_tokens=1), None, block_hasher=block_hasher)
