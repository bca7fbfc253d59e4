"""Incremental detokenization: vLLM's own detokenizer of a request, from its first token on.

The fast one (`tokenizers`' DecodeStream) is primed with the prompt's tokens and decodes all of
them at its first step, once without and once with the new token. That step runs on the API
server's event loop, and a client that measures from the headers to the first token counts it as
prefill. The slow one looks at the end of the prompt alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm_codesign.micro.case import Case, Ready
from vllm_codesign.micro.texts import Prompts
from vllm_codesign.micro.tokenizer import Tokenizer

OUTPUT_TOKENS = 128
"""Of a request; the study timed as many."""
_CLASSES = {"fast": "FastIncrementalDetokenizer", "slow": "SlowIncrementalDetokenizer"}


def detokenize(tokenizer: Tokenizer, prompts: Prompts) -> Iterator[Case]:
    """Of each class: making one, its first step, and the mean of the steps after that."""
    from vllm.v1.engine import detokenizer

    probe = prompts.at(prompts.sizes[0]).ids[:2]
    chosen = detokenizer.IncrementalDetokenizer.from_new_request(tokenizer.loaded, request(probe))
    for variant, name in _CLASSES.items():
        made = getattr(detokenizer, name)
        uses = type(chosen) is made
        if variant == "fast" and not uses:
            continue  # it takes fast tokenizers only, and vLLM chose as this one is not
        note = "what vLLM uses with this tokenizer" if uses else "vLLM uses it with slow tokenizers"
        for size in prompts.sizes:
            stream = _Stream(made, tokenizer, prompts, size)
            for component, prepare, said in (
                ("detokenizer_new", stream.new, note),
                ("detokenize_first", stream.first, f"the first output token; {note}"),
                (
                    "detokenize_step",
                    stream.rest,
                    f"mean of the {OUTPUT_TOKENS - 1} output tokens after the first; {note}",
                ),
            ):
                yield Case(component, "frontend", prepare, variant, size, said)


class _Stream:
    """One request's output, whose tokens are those that its prompt begins with."""

    def __init__(self, made: Any, tokenizer: Tokenizer, prompts: Prompts, size: int) -> None:
        self._made, self._tokenizer = made, tokenizer
        self._prompts, self._size = prompts, size

    def new(self) -> Ready:
        asked = request(self._prompts.at(self._size).ids)
        return Ready(
            lambda: self._detokenizer(asked),
            lambda found: "it has output before any" if found.output_text else None,
        )

    def first(self) -> Ready:
        ids = self._prompts.at(self._size).ids
        made, output = self._detokenizer(request(ids)), _output(ids)
        return Ready(lambda: _step(made, output[:1]), lambda found: self._says(found, output[:1]))

    def rest(self) -> Ready:
        ids = self._prompts.at(self._size).ids
        output = _output(ids)
        made = _step(self._detokenizer(request(ids)), output[:1])
        return Ready(
            lambda: _step(made, output[1:]),
            lambda found: self._says(found, output),
            len(output) - 1,
        )

    def _detokenizer(self, asked: Any) -> Any:
        return self._made(self._tokenizer.loaded, asked)

    def _says(self, made: Any, output: list[int]) -> str | None:
        """Against decoding everything at once, without the prompt's part."""
        ids = self._prompts.at(self._size).ids
        before, whole = self._tokenizer.decode(ids), self._tokenizer.decode(ids + output)
        if list(made.output_token_ids) == output and before + made.output_text == whole:
            return None
        return "its text is not that of the tokens decoded at once"


def _output(ids: list[int]) -> list[int]:
    return (ids * (1 + OUTPUT_TOKENS // len(ids)))[:OUTPUT_TOKENS]


def _step(made: Any, tokens: list[int]) -> Any:
    """One engine step a token, as without speculative decoding."""
    for token in tokens:
        made.update([token], False)
    return made


def request(prompt: list[int]) -> Any:
    """A request as the detokenizer gets it; what it does not read is left empty."""
    import msgspec
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    known: dict[str, Any] = {
        "request_id": "micro",
        "prompt_token_ids": prompt,
        "sampling_params": SamplingParams(max_tokens=OUTPUT_TOKENS),
        "arrival_time": 0.0,
    }
    fields = msgspec.structs.fields(EngineCoreRequest)
    return EngineCoreRequest(**{f.name: known.get(f.name) for f in fields if f.required})
