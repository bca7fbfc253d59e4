"""Prompts of a given number of tokens, new ones in each round."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_codesign.bench.prompts import PromptSource, calibrate, stream
from vllm_codesign.micro.tokenizer import Tokenizer
from vllm_codesign.model.bench import Scenario
from vllm_codesign.model.errors import CodesignError

_OTHER_SEED = 11
_OTHER_WORDS = 80_000
"""A fifth of the words is rare: more of them than a tokenizer remembers (10,000)."""
_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text and the tokens that it is."""

    text: str
    ids: list[int]


class Prompts:
    """One prompt of each size, other ones in each round.

    They are those of `codesign bench` (`bench.prompts`): the words of a size in another order
    for each round. Byte-level tokenizers remember the first 10,000 words that they meet, and a
    server that has run for a while has met other ones than the next prompt's: other words come
    first here too.
    """

    def __init__(self, tokenizer: Tokenizer, sizes: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        tokenizer.encode(" ".join(stream(_OTHER_WORDS, _OTHER_SEED)))
        self._sources = {size: self._source(size) for size in sizes}
        self._now: dict[int, Prompt] = {}
        self.renew(0)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self._sources)

    def renew(self, number: int) -> None:
        """Prompts of round `number`."""
        for size, source in self._sources.items():
            text = source.prompt(number, 0)
            self._now[size] = Prompt(text, self._tokenizer.encode(text))

    def at(self, size: int) -> Prompt:
        """This round's prompt of that many tokens."""
        return self._now[size]

    def _source(self, size: int) -> PromptSource:
        async def count(text: str) -> int:
            return len(self._tokenizer.encode(text))

        asked = Scenario(name="micro", concurrency=1, prompt_tokens=size, prompts="unique")
        source = asyncio.run(calibrate(asked, count))
        if abs((source.counted or 0) - size) > max(1, _TOLERANCE * size):
            raise CodesignError(
                f"no text of {size:,} tokens could be made with the tokenizer of "
                f"{self._tokenizer.model} (the nearest has {source.counted or 0:,}): name other "
                "--tokens"
            )
        return source
