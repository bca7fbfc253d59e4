import json
from pathlib import Path

import pytest

from vllm_codesign.bench import tiny_model
from vllm_codesign.model.errors import CodesignError


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("models") / "tiny"
    some = tiny_model._corpus()[:40]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "_corpus", lambda: some)  # all of it takes some 5 s
        tiny_model.make(path)
    return path


def test_it_has_what_both_versions_of_vllm_look_for(model):
    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())

    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["vocab_size"] <= 32_000
    assert config["max_position_embeddings"] == 131_072
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "<|assistant|>" in tokenizer["chat_template"]
    assert [entry.name for entry in model.parent.iterdir()] == ["tiny"]


def test_the_tokenizer_returns_what_it_was_given(model):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    text = "for line in café: print('日本', 42)\n"

    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("<|user|>").tokens == ["<|user|>"]


def test_the_weights_are_those_of_the_config(model):
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(model / "model.safetensors", "pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118

    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    assert shapes["lm_head.weight"] == [vocabulary, 128]
    assert shapes["model.layers.1.self_attn.o_proj.weight"] == [128, 128]
    assert "model.layers.2.mlp.down_proj.weight" not in shapes


def test_a_finished_model_is_left_alone(model, monkeypatch):
    monkeypatch.setattr(tiny_model, "_build", lambda _folder: pytest.fail("built again"))

    tiny_model.make(model)


def test_an_older_recipe_is_made_anew_and_an_interrupted_build_leaves_nothing(
    tmp_path, monkeypatch
):
    path = tmp_path / "tiny"
    path.mkdir()
    (path / "codesign_tiny_model.json").write_text('{"recipe": 0}')

    def interrupted(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny_model, "_build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny_model.make(path)
    assert not tiny_model.is_finished(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]

    marker = json.dumps({"recipe": tiny_model.RECIPE})
    monkeypatch.setattr(
        tiny_model, "_build", lambda f: (f / "codesign_tiny_model.json").write_text(marker)
    )
    tiny_model.make(path)
    assert tiny_model.is_finished(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_a_folder_of_somebody_else_is_not_touched(tmp_path, capsys):
    (tmp_path / "notes").write_text("mine")

    with pytest.raises(CodesignError, match="name another folder"):
        tiny_model.make(tmp_path)
    assert tiny_model.main([str(tmp_path)]) == 1
    assert "name another folder" in capsys.readouterr().err
    assert tiny_model.main([]) == 2
