import json
from pathlib import Path

import pytest

from vllm_codesign.bench.scenarios import QUICK, STUDY, read_file, select
from vllm_codesign.model.errors import CodesignError


def test_the_study_has_its_eight():
    shape = {s.name: (s.concurrency, s.prompt_tokens, s.concurrency * s.repeats) for s in STUDY}

    assert shape == {
        "single_1k": (1, 1_000, 5),
        "single_8k": (1, 8_000, 5),
        "single_32k": (1, 32_000, 3),
        "single_100k": (1, 100_000, 3),
        "conc4_8k": (4, 8_000, 20),
        "conc16_32k": (16, 32_000, 48),
        "conc32_32k": (32, 32_000, 96),
        "conc32_100k": (32, 100_000, 64),
    }
    assert {(s.prompts, s.max_tokens) for s in STUDY} == {("identical", 100)}


def test_the_quick_set_is_small_and_its_prompts_are_unique():
    assert sum(s.concurrency * s.repeats for s in QUICK) < 80
    assert {s.prompts for s in QUICK} == {"unique"}


def test_selection():
    assert select() == QUICK
    assert select(set_name="study") == STUDY
    assert [s.name for s in select(["conc4_8k", "single_500"])] == ["conc4_8k", "single_500"]
    assert [s.name for s in select(["single_1k"], "study")] == ["single_1k"]
    with pytest.raises(CodesignError, match="no scenario is called 'nope': choose from single_1k"):
        select(["nope"])
    with pytest.raises(CodesignError, match="exclude each other"):
        select(set_name="quick", file=Path("x.toml"))


TOML = """
[[scenario]]
name = "agents"
concurrency = 8
prompt_tokens = 4000
prompts = "shared-prefix"
"""


@pytest.fixture
def file(tmp_path: Path):
    def write(text: str, name: str = "mine.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_file_in_either_form(file):
    entry = {"name": "agents", "concurrency": 8, "prompt_tokens": 4000, "prompts": "shared-prefix"}
    from_toml = read_file(file(TOML))

    assert from_toml[0].prompts == "shared-prefix"
    assert from_toml[0].repeats == 5
    assert read_file(file(json.dumps({"scenario": [entry]}), "mine.json")) == from_toml
    assert select(["agents"], file=file(TOML)) == from_toml


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "scenario is missing: write one [[scenario]] table"),
        ("scenario = 3", "scenario is missing"),
        ("[[scenario]", "not TOML: "),
        (TOML.replace("8", "0"), "scenario 1 (agents): concurrency = 0: input should be greater"),
        (TOML.replace("8", "'8'"), "concurrency = '8': input should be a valid integer"),
        (TOML.replace("concurrency", "clients"), "scenario 1 (agents): concurrency is missing"),
        (TOML + "colour = 1", "colour is not a field: use name, concurrency, prompt_tokens,"),
        (TOML.replace("agents", "a b"), "name = 'a b': string should match pattern"),
        (TOML.replace("shared-prefix", "same"), "prompts = 'same': input should be 'identical'"),
        (TOML + TOML, "scenario 2 (agents): name is taken"),
    ],
)
def test_a_bad_file_is_one_line_with_file_field_and_cure(file, text, says):
    path = file(text)

    with pytest.raises(CodesignError) as error:
        read_file(path)

    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert says in line
    assert "\n" not in line


def test_a_file_that_is_not_there_or_not_json(file, tmp_path):
    with pytest.raises(CodesignError, match="cannot be read"):
        read_file(tmp_path / "none.toml")
    with pytest.raises(CodesignError, match="not JSON"):
        read_file(file(TOML, "mine.json"))
    with pytest.raises(CodesignError, match="scenario 1: not a table"):
        read_file(file('{"scenario": [3]}', "mine.json"))
