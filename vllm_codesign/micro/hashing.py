"""What names a prompt in a KV cache: one SHA-256, vLLM's block hashes, LMCache's keys.

One SHA-256 over a prompt's bytes is what the MI300X study timed. vLLM hashes block by block,
each with the hash before it, and LMCache chunk by chunk.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vllm_codesign.micro.block_hashes import BLOCK_SIZES, HASHES, hasher, request_of
from vllm_codesign.micro.case import Case, Ready
from vllm_codesign.micro.texts import Prompts

STUDY_BYTES = 9
"""A token, by the study's throughput."""
LMCACHE_CHUNK = 256
"""Tokens, LMCache's default."""


def one_sha256(sizes: Sequence[int]) -> Iterator[Case]:
    """One digest over as many bytes as the study's prompts had."""
    source = random.Random(0)
    for size in sizes:

        def prepare(size: int = size) -> Ready:
            text = source.randbytes(STUDY_BYTES * size)

            def is_that_of_its_halves(found: bytes) -> str | None:
                whole = hashlib.sha256(text[: len(text) // 2])
                whole.update(text[len(text) // 2 :])
                return None if found == whole.digest() else "the digest is another one"

            return Ready(lambda: hashlib.sha256(text).digest(), is_that_of_its_halves)

        note = f"{STUDY_BYTES} bytes a token, as the study's throughput says"
        yield Case("sha256", "hashing", prepare, tokens=size, note=note)


def block_hashes(prompts: Prompts) -> Iterator[Case]:
    """All blocks of a prompt, as EngineCore's input thread hashes them for each request."""
    for block_size in BLOCK_SIZES:
        for name in HASHES:
            hashes = hasher(name, block_size)
            for size in prompts.sizes:

                def prepare(
                    hashes: Callable[[Any], Any] = hashes,
                    block_size: int = block_size,
                    size: int = size,
                ) -> Ready:
                    ids = prompts.at(size).ids
                    asked = request_of("micro", ids, None)

                    def of(tokens: list[int]) -> list[Any]:
                        return list(hashes(request_of("micro", tokens, None)))

                    return Ready(lambda: hashes(asked), lambda h: _chained(h, ids, block_size, of))

                yield Case(
                    "block_hash", "hashing", prepare, f"{name}, blocks of {block_size}", size
                )


def lmcache_keys(prompts: Prompts) -> Iterator[Case]:
    """All chunks of a prompt, as LMCache's server and connector hash them."""
    made = lmcache_hasher()
    for size in prompts.sizes:

        def prepare(size: int = size) -> Ready:
            ids = prompts.at(size).ids
            return Ready(
                lambda: made.compute_chunk_hashes(ids),
                lambda keys: _chained(keys, ids, LMCACHE_CHUNK, made.compute_chunk_hashes),
            )

        variant = f"{made.hash_algorithm_name}, chunks of {LMCACHE_CHUNK}"
        yield Case("lmcache_key", "hashing", prepare, variant, size)


def lmcache_hasher() -> Any:
    """LMCache's own of a chunk of `LMCACHE_CHUNK`; ImportError where it is not installed."""
    os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
    from lmcache.v1.multiprocess.token_hasher import TokenHasher

    return TokenHasher(LMCACHE_CHUNK)


def _chained(
    found: Sequence[Any], ids: list[int], block: int, hashes: Callable[[list[int]], Sequence[Any]]
) -> str | None:
    """One for each whole block, the same for the same beginning, others after another one."""
    if len(found) != len(ids) // block:
        return f"{len(found)} hashes of {len(ids) // block} blocks"
    if list(found[:2]) != list(hashes(ids[: 2 * block]))[:2]:
        return "the same beginning has other hashes"
    changed = list(hashes([ids[0] ^ 1, *ids[1 : 2 * block]]))[:2]
    if any(one == other for one, other in zip(found, changed, strict=False)):
        return "another beginning has the same hashes"
    return None
