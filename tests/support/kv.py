"""Prompts that come again once the device's cache has lost them, and LMCache's own log."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.mixed_load import Sent, send_all
from vllm_codesign import semconv as S
from vllm_codesign.model.trace import RequestTrace, Span

PROMPT_TOKENS = 5010
ORDER = "ABCABCA"
FLAGS = ("--num-gpu-blocks-override", "80", "--max-model-len", "9000")
"""80 blocks of 128 tokens hold two of these prompts and not three."""


def prompts(model: str, order: str = ORDER, tokens: int = 8, seed: int = 7) -> list[Sent]:
    """One request a letter, the same prompt for the same letter."""
    rng = random.Random(seed)
    ids = {name: [rng.randrange(300, 30_000) for _ in range(PROMPT_TOKENS)] for name in order}
    return [_request(model, ids[name], tokens, rng) for name in order]


def _request(model: str, prompt: list[int], tokens: int, rng: random.Random) -> Sent:
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
    }
    return Sent(
        "kv",
        "/v1/completions",
        body,
        S.Outcome.COMPLETED,
        f"{rng.getrandbits(128) | 1:032x}",
        f"{rng.getrandbits(64) | 1:016x}",
    )


def one_by_one(url: str, requests: Iterable[Sent]) -> None:
    """Each after the answer to the one before."""
    for request in requests:
        asyncio.run(send_all(url, [request]))


def tokens(trace: RequestTrace, name: str, connector: str = "") -> int:
    """Sum of the tokens of this kind of span; of a connector's children only where asked."""
    return sum(
        _int(span, S.KV_TOKENS)
        for span in trace.named(name)
        if ("/" not in connector_of(span) if not connector else connector_of(span) == connector)
    )


def connector_of(span: Span) -> str:
    """Its connector, after that of a connector which calls it."""
    return str(span.attributes[S.KV_CONNECTOR.key])


def _int(span: Span, attribute: S.Attribute) -> int:
    value = span.attributes.get(attribute.key, 0)
    assert isinstance(value, int)
    return value


def logged(log: Path, verb: str) -> int:
    """Tokens that LMCache's server says it has `Stored` or `Retrieved`."""
    return sum(map(int, re.findall(rf"{verb} (\d+) tokens in", log.read_text())))
