"""The components on a tokenizer made on the spot, and what becomes of wrong results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from vllm_codesign.micro import components, detokenize, frontend, hashing
from vllm_codesign.micro.case import Case
from vllm_codesign.micro.components import COMPONENTS, Kit, chosen
from vllm_codesign.micro.harness import measure
from vllm_codesign.micro.texts import Prompts
from vllm_codesign.micro.tokenizer import Tokenizer, load
from vllm_codesign.model.errors import CodesignError

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
)
SIZES = (300, 700)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer without a merge: a token a byte."""
    path = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return path


@pytest.fixture(scope="module")
def kit(folder: Path) -> Kit:
    return Kit(lambda: str(folder), SIZES)


def once(cases: list[Case]) -> dict[tuple[str, str, int | None], float]:
    measured = measure(cases, 1, float("inf"))
    assert measured.skipped == []
    return {(t.component, t.variant, t.tokens): t.median_ns for t in measured.timings}


def test_prompts_have_the_tokens_asked_for_and_are_others_in_each_round(kit: Kit) -> None:
    first = kit.prompts.at(700)
    found = [len(kit.prompts.at(size).ids) for size in SIZES]
    assert found == pytest.approx(SIZES, rel=0.01), "a word is several tokens of this tokenizer"
    kit.prompts.renew(1)
    assert kit.prompts.at(700).text != first.text
    assert len(kit.prompts.at(700).ids) == found[1]


def test_components_that_need_no_vllm(kit: Kit) -> None:
    cases, skipped = chosen(["encode", "decode", "json", "sse_parse", "sha256"], kit)
    assert skipped == []
    found = once(cases)
    by_size = ("encode", "decode", "json_encode", "json_parse", "sha256")
    assert set(found) == {
        *((name, "", size) for name in by_size for size in SIZES),
        ("sse_parse", "", None),
    }
    assert all(value > 0 for value in found.values())


@needs_vllm
def test_vllms_own(kit: Kit) -> None:
    cases, skipped = chosen(["detokenize", "validate", "sse_encode", "block_hash"], kit)
    assert skipped == []
    found = once(cases)
    steps = ("detokenizer_new", "detokenize_first", "detokenize_step")
    wanted = {(step, kind, size) for step in steps for kind in ("fast", "slow") for size in SIZES}
    assert wanted < set(found)
    assert ("request_validate", "", 700) in found
    assert ("sse_encode", "", None) in found
    hashes = [key for key in found if key[0] == "block_hash"]
    assert len(hashes) == len(hashing.BLOCK_SIZES) * len(hashing.HASHES) * len(SIZES)


@needs_vllm
def test_which_detokenizer_vllm_uses_is_said(kit: Kit) -> None:
    cases = [*detokenize.detokenize(kit.tokenizer, kit.prompts)]
    notes = {case.variant: case.note for case in cases if case.component == "detokenizer_new"}
    assert notes == {
        "fast": "what vLLM uses with this tokenizer",
        "slow": "vLLM uses it with slow tokenizers",
    }


@pytest.mark.skipif(importlib.util.find_spec("lmcache") is None, reason="lmcache is not installed")
def test_lmcaches_keys(kit: Kit) -> None:
    cases, skipped = chosen(["lmcache_key"], kit)
    assert skipped == []
    assert {key[0] for key in once(cases)} == {"lmcache_key"}


def test_what_is_not_installed_or_has_another_form_is_said(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(components._VERSIONS, "lmcache", lambda: "")
    monkeypatch.setitem(components._VERSIONS, "vllm", lambda: "9.9")

    def gone(kit: Kit) -> Any:
        raise AttributeError("module has no such class")

    other = components.Component(gone, "", "vllm")
    monkeypatch.setitem(COMPONENTS, "block_hash", other)
    cases, skipped = chosen(["lmcache_key", "block_hash"], kit)
    assert cases == []
    assert [(s.component, s.reason) for s in skipped] == [
        ("lmcache_key", "lmcache is not installed"),
        (
            "block_hash",
            "vllm 9.9 has it in another form, or cannot be imported: module has no such class",
        ),
    ]


class Wrong:
    """Another tokenizer's tokens, and text that is not theirs."""

    def __init__(self, real: Tokenizer) -> None:
        self.real = real

    def encode(self, text: str) -> list[int]:
        return [*self.real.encode(text)[:-1], 5]

    def decode(self, ids: list[int]) -> str:
        return self.real.decode(ids[:-1])


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        (frontend.encode, "its tokens do not decode to the text: nothing of it is reported"),
        (frontend.decode, "the text is not that of its tokens: nothing of it is reported"),
    ],
)
def test_a_wrong_text_is_found(kit: Kit, cases: Any, said: str) -> None:
    measured = measure([next(iter(cases(Wrong(kit.tokenizer), kit.prompts)))], 1, float("inf"))
    assert [skipped.reason for skipped in measured.skipped] == [said]
    assert measured.timings == []


def test_wrong_hashes_are_found() -> None:
    ids = list(range(64))

    def good(tokens: list[int]) -> list[int]:
        return [hash(tuple(tokens[: end + 16])) for end in range(0, len(tokens) - 15, 16)]

    assert hashing._chained(good(ids), ids, 16, good) is None
    assert hashing._chained(good(ids)[1:], ids, 16, good) == "3 hashes of 4 blocks"
    assert hashing._chained([1, *good(ids)[1:]], ids, 16, good) == (
        "the same beginning has other hashes"
    )

    def unchained(tokens: list[int]) -> list[int]:
        return [hash(tuple(tokens[at : at + 16])) for at in range(0, len(tokens) - 15, 16)]

    assert hashing._chained(unchained(ids), ids, 16, unchained) == (
        "another beginning has the same hashes"
    )


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CodesignError) as raised:
        load(str(tmp_path))
    assert str(raised.value).startswith(f"no tokenizer can be loaded from {tmp_path} (")
    assert str(raised.value).endswith("name a model's folder with --model")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("model", "said"), [("/nowhere/at/all",) * 2, ("", "(nothing)")])
def test_a_folder_that_is_not_there(model: str, said: str) -> None:
    with pytest.raises(CodesignError) as raised:
        load(model)
    assert str(raised.value) == f"{said} is no folder: name a model's with --model"


def test_a_size_that_cannot_be_made(kit: Kit) -> None:
    class Coarse(Wrong):
        def encode(self, text: str) -> list[int]:
            return [1] * (250 * (1 + len(text) // 1000))

    coarse: Any = Coarse(kit.tokenizer)
    coarse.model = "coarse"
    with pytest.raises(CodesignError, match="no text of 300 tokens could be made"):
        Prompts(coarse, (300,))
