"""The tokenizer as vLLM loads it, or as transformers does where there is no vLLM."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_codesign.model.errors import CodesignError

_UNREADABLE = (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError)
"""What the loaders raise for a folder that holds no tokenizer, depending on what it lacks."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A loaded tokenizer and the calls of it that a server makes."""

    model: str
    loaded: Any

    @property
    def described(self) -> str:
        """Its class and how many tokens it knows."""
        kind = type(self.loaded)
        fast = "fast" if getattr(self.loaded, "is_fast", False) else "slow"
        return f"{kind.__name__} ({fast}, {len(self.loaded):,} entries)"

    def encode(self, text: str) -> list[int]:
        """As vLLM's renderer calls it for a chat, whose template has the special tokens."""
        ids: list[int] = self.loaded(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self.loaded.decode(ids, skip_special_tokens=True)
        return text


def load(model: str) -> Tokenizer:
    """The tokenizer of a model's folder or name; CodesignError where there is none."""
    if not model or (model.startswith((".", "/", "~")) and not Path(model).is_dir()):
        raise CodesignError(f"{model or '(nothing)'} is no folder: name a model's with --model")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # stderr is for our own progress
    try:
        loaded = _loader()(model)
    except _UNREADABLE as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CodesignError(
            f"no tokenizer can be loaded from {model} ({first}): name a model's folder with --model"
        ) from error
    with contextlib.suppress(AttributeError):
        # Longer texts than the model takes are meant; transformers would warn of each.
        loaded.model_max_length = 1 << 40
    return Tokenizer(model, loaded)


def _loader() -> Any:
    try:
        from vllm.tokenizers import get_tokenizer

        return get_tokenizer
    except ImportError:
        pass
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained
    except ImportError as error:
        raise CodesignError(
            "a tokenizer is loaded by vLLM or by transformers, and neither is installed: run "
            "this in the environment that vLLM is in, or name components that need none "
            "(sse_parse, sha256)"
        ) from error
