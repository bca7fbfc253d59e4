"""A small model made on the spot, for machines without a download or a GPU.

`python -m vllm_codesign.bench.tiny_model OUT` writes 17 MB that vLLM serves like any other
checkpoint: a byte-level BPE of up to 32,000 entries trained on the standard library's own
sources, a chat template, and a two-layer Llama with random weights. What it says is noise;
what it costs to tokenize, schedule, stream and detokenize is real.

The files are written by hand and not through `transformers`, whose 4.x and 5.x disagree
about their contents; vLLM 0.19 reads with the former, 0.32 with the latter.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import tempfile
from pathlib import Path

from vllm_codesign.model.errors import CodesignError

RECIPE = 1
"""Raised when the files change: a folder of an older recipe is made anew."""

_MARKER = "codesign_tiny_model.json"
_SEED = 20260514
_VOCABULARY = 32_000
_CONTEXT = 131_072
_HIDDEN = 128
_INTERMEDIATE = 256
_LAYERS = 2
_HEADS = 2
_HEAD_SIZE = 64
_SPECIAL = ("<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def make(path: Path) -> None:
    """Write the model to `path`, or do nothing where a finished one is.

    It is built in a temporary folder beside `path` and renamed, so an interrupted build
    leaves nothing that looks finished. Raises CodesignError where `path` holds something
    else or a library is missing.
    """
    path = path.absolute()
    if is_finished(path):
        return
    if path.exists() and not (path / _MARKER).exists() and (path.is_file() or any(path.iterdir())):
        raise CodesignError(
            f"{path} exists and is not a model made by this command: name another folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        built = Path(temporary) / "model"
        built.mkdir()
        _build(built)
        if path.exists():
            path.rename(Path(temporary) / "old")
        try:
            built.rename(path)
        except OSError:
            if not is_finished(path):  # else another process was faster, and made the same
                raise


def is_finished(path: Path) -> bool:
    """Whether `path` holds a whole model of the present recipe."""
    try:
        return bool(json.loads((path / _MARKER).read_text())["recipe"] == RECIPE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _build(folder: Path) -> None:
    try:
        import tokenizers
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        raise CodesignError(
            f"the small model needs {error.name}: install vLLM, which brings it"
        ) from error
    vocabulary = _write_tokenizer(folder, tokenizers)
    save_file(_weights(torch, vocabulary), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it private
    _write_json(folder / "config.json", _config(vocabulary))
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": _SPECIAL.index("<s>"), "eos_token_id": _SPECIAL.index("</s>")},
    )
    _write_json(folder / _MARKER, {"recipe": RECIPE, "seed": _SEED})


def _write_tokenizer(folder: Path, tokenizers) -> int:  # type: ignore[no-untyped-def]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train(_corpus(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            # 0.19 knows the class by this name only.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": _CONTEXT,
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "clean_up_tokenization_spaces": False,
            "chat_template": _CHAT_TEMPLATE,
        },
    )
    return int(tokenizer.get_vocab_size())


def _corpus() -> list[str]:
    """The standard library's sources, without its tests, in an order that does not vary."""
    library = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "tests", "site-packages", "dist-packages", "idle_test"}
    files = (p for p in library.rglob("*.py") if not skipped.intersection(p.parts))
    return sorted(str(p) for p in files if _is_utf8(p))


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return False
    return True


def _weights(torch, vocabulary: int):  # type: ignore[no-untyped-def]
    """Tensors under the names and shapes of `LlamaForCausalLM`."""
    generator = torch.Generator().manual_seed(_SEED)

    def normal(*shape: int):  # type: ignore[no-untyped-def]
        return (torch.randn(*shape, generator=generator) * 0.02).to(torch.bfloat16)

    ones = torch.ones(_HIDDEN, dtype=torch.bfloat16)
    attention = _HEADS * _HEAD_SIZE
    tensors = {"model.embed_tokens.weight": normal(vocabulary, _HIDDEN)}
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj"):
            tensors[f"{prefix}self_attn.{name}.weight"] = normal(attention, _HIDDEN)
        tensors[f"{prefix}self_attn.o_proj.weight"] = normal(_HIDDEN, attention)
        for name in ("gate_proj", "up_proj"):
            tensors[f"{prefix}mlp.{name}.weight"] = normal(_INTERMEDIATE, _HIDDEN)
        tensors[f"{prefix}mlp.down_proj.weight"] = normal(_HIDDEN, _INTERMEDIATE)
        tensors[f"{prefix}input_layernorm.weight"] = ones.clone()
        tensors[f"{prefix}post_attention_layernorm.weight"] = ones.clone()
    tensors["model.norm.weight"] = ones.clone()
    tensors["lm_head.weight"] = normal(vocabulary, _HIDDEN)
    return tensors


def _config(vocabulary: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "head_dim": _HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": _CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": _SPECIAL.index("<s>"),
        "eos_token_id": _SPECIAL.index("</s>"),
        "torch_dtype": "bfloat16",
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m vllm_codesign.bench.tiny_model OUT", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        make(Path(arguments[0]))
    except CodesignError as error:
        print(f"codesign: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
