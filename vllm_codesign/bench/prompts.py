"""Prompts of a given number of tokens, counted by the server's own tokenizer.

The text is made of common words, invented identifiers and numbers, so that it costs a
tokenizer about what real text does: a handful of repeated words would be answered from
its word cache. One fixed stream of words stands behind all prompts: a shorter prompt is
the beginning of a longer one, as in the study.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from vllm_codesign.model.bench import Scenario

SHARED_FRACTION = 0.5
"""Part of a `shared-prefix` prompt that is the same in all of them."""

_TOKENS_PER_WORD = 1.7
"""Guess where the server cannot count: measured on the text below with a 32,000-entry BPE."""

_FILLER = "the"
"""One token with the space before it, in any tokenizer that has seen English."""

_MAX_TRIES = 8
_SEED = 7
_WARM_UP = -1
_COMMON = (  # noqa: SIM905 (quotes around each would only hide the words)
    "the of and to in is that for it as with on be this are by from or which you at not have "
    "an can all will if one their there has when more some what so out up into them then "
    "other time these two may any no now only over such our most first also after new many "
    "before must through where much should well people down own just because good each those "
    "how too little state file code data test value name list class object function return "
    "error call process memory system user group request server time block token cache queue "
    "model step"
).split()
_SYLLABLES = [c + v for c in "bcdfghklmnprstvz" for v in "aeiou"]

CountTokens = Callable[[str], Awaitable[int | None]]
"""Tokens that a prompt becomes, template included; None where the server cannot say."""


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Makes the prompts of one scenario; `counted` is None where the length is a guess."""

    words: tuple[str, ...]
    kind: str
    run: str
    counted: int | None

    def prompt(self, repeat: int, index: int) -> str:
        """The prompt of request `index` of batch `repeat`.

        Unique ones are the same words in another order: a byte-level BPE never joins two
        words, so their number of tokens stays that of the whole.
        """
        fixed = {"identical": 1.0, "shared-prefix": SHARED_FRACTION, "unique": 0.0}[self.kind]
        return self._shuffled(round(len(self.words) * fixed), repeat, index)

    def warm_up(self, index: int) -> str:
        """A prompt of the same length that no measured one begins like."""
        return self._shuffled(0, _WARM_UP, index)

    def _shuffled(self, keep: int, repeat: int, index: int) -> str:
        keep = max(1, keep)  # the first word has no space before it, which may cost a token
        tail = list(self.words[keep:])
        random.Random(f"{self.run}/{repeat}/{index}").shuffle(tail)
        return " ".join([*self.words[:keep], *tail])


async def calibrate(scenario: Scenario, count: CountTokens) -> PromptSource:
    """Find the words that make `scenario.prompt_tokens` tokens: exactly, where it can be.

    A few words too few are made up for with `_FILLER`. The order of unique prompts is drawn
    anew in each run: a second run against the same server must not find its prompts in the
    prefix cache.
    """
    target = scenario.prompt_tokens
    size, fill = max(1, round(target / _TOKENS_PER_WORD)), 0
    words = stream(size)
    best: tuple[int, list[str]] | None = None
    for _ in range(_MAX_TRIES):
        tokens = await count(" ".join(words))
        if tokens is None:
            break
        if best is None or abs(tokens - target) < abs(best[0] - target):
            best = (tokens, words)
        missing = target - tokens
        if missing == 0 or (missing < 0 and len(words) == 1):
            break
        if 0 < missing <= max(8, target // 100):
            fill += missing
        else:
            # Rounded down: what is missing can be filled, what is over cannot.
            size, fill = max(1, size + math.floor(missing * size / tokens)), 0
        words = stream(size) + [_FILLER] * fill
    return PromptSource(
        tuple(best[1] if best else words),
        scenario.prompts,
        f"{secrets.token_hex(8)}/{scenario.name}",
        best[0] if best else None,
    )


def server_counter(
    session: aiohttp.ClientSession, url: str, model: str, scenario: Scenario
) -> CountTokens:
    """A counter that asks vLLM's `/tokenize`; it says None where there is no such endpoint."""

    async def count(text: str) -> int | None:
        request: dict[str, object] = {"model": model}
        if scenario.route == "chat":
            request["messages"] = [{"role": "user", "content": text}]
        else:
            request["prompt"] = text
        try:
            async with session.post(f"{url}/tokenize", json=request) as response:
                if response.status != 200:
                    return None
                answer = await response.json()
        except (aiohttp.ClientError, ValueError):
            return None
        counted = answer.get("count") if isinstance(answer, dict) else None
        return counted if isinstance(counted, int) else None

    return count


def stream(size: int, seed: int = _SEED) -> list[str]:
    """The first `size` words of the stream, or of another one that is like it."""
    source = random.Random(seed)
    return [_word(source) for _ in range(size)]


def _word(source: random.Random) -> str:
    kind = source.random()
    if kind < 0.75:
        return source.choice(_COMMON)
    if kind < 0.9:
        return "".join(source.choices(_SYLLABLES, k=source.randint(2, 4)))
    return str(source.randint(0, 99999))
