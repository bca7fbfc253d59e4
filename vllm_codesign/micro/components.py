"""Which components there are, by the names that a user chooses them by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vllm_codesign.hooks.installer import installed_version, vllm_version
from vllm_codesign.micro import detokenize, frontend, hashing
from vllm_codesign.micro.case import Case
from vllm_codesign.micro.texts import Prompts
from vllm_codesign.micro.tokenizer import Tokenizer, load
from vllm_codesign.model.micro import Skipped


class Kit:
    """What components are made of; the tokenizer is loaded when the first one needs it."""

    def __init__(self, model: Callable[[], str], sizes: Sequence[int]) -> None:
        self._model = model
        self.sizes = tuple(sizes)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load(self._model())

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(self.tokenizer, self.sizes)

    @property
    def loaded(self) -> Prompts | None:
        """The prompts, if anything needed them."""
        return vars(self).get("prompts")


@dataclass(frozen=True, slots=True)
class Component:
    """One name, and the cases that it stands for; `needs` is a distribution that it is of."""

    cases: Callable[[Kit], Iterable[Case]]
    about: str
    needs: str = ""


COMPONENTS = {
    "encode": Component(lambda kit: frontend.encode(kit.tokenizer, kit.prompts), "text to tokens"),
    "decode": Component(lambda kit: frontend.decode(kit.tokenizer, kit.prompts), "tokens to text"),
    "detokenize": Component(
        lambda kit: detokenize.detokenize(kit.tokenizer, kit.prompts),
        "vLLM's incremental detokenizers",
        "vllm",
    ),
    "json": Component(lambda kit: frontend.request_json(kit.prompts), "a request's JSON"),
    "validate": Component(
        lambda kit: frontend.request_validation(kit.prompts), "vLLM's model of a request", "vllm"
    ),
    "sse_encode": Component(lambda kit: frontend.sse_encode(), "a chunk of a stream", "vllm"),
    "sse_parse": Component(lambda kit: frontend.sse_parse(), "the same, read by a client"),
    "sha256": Component(lambda kit: hashing.one_sha256(kit.sizes), "one digest of a prompt"),
    "block_hash": Component(
        lambda kit: hashing.block_hashes(kit.prompts), "vLLM's hashes of a prompt's blocks", "vllm"
    ),
    "lmcache_key": Component(
        lambda kit: hashing.lmcache_keys(kit.prompts), "LMCache's keys of a prompt", "lmcache"
    ),
}
_VERSIONS: dict[str, Callable[[], str]] = {
    "vllm": vllm_version,
    "lmcache": lambda: installed_version("lmcache"),
}

_UNFIT = (ImportError, AttributeError, TypeError, ValueError, OSError, RuntimeError)
"""What another version's names, parameters and libraries raise when they are called."""


def chosen(names: Sequence[str], kit: Kit) -> tuple[list[Case], list[Skipped]]:
    """The cases of these components, and those that cannot be had here with the reason."""
    cases: list[Case] = []
    skipped: list[Skipped] = []
    for name in names:
        component = COMPONENTS[name]
        if component.needs and not _VERSIONS[component.needs]():
            skipped.append(Skipped(component=name, reason=f"{component.needs} is not installed"))
            continue
        try:
            cases += component.cases(kit)
        except _UNFIT as error:
            if not component.needs:
                raise
            skipped.append(Skipped(component=name, reason=_unfit(component.needs, error)))
    return cases, skipped


def _unfit(needs: str, error: Exception) -> str:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return f"{needs} {_VERSIONS[needs]()} has it in another form, or cannot be imported: {first}"
