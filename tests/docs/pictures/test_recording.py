"""The recording is read as it was written, and one that is not whole is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.pictures.recording import COMMAND, FILE, load, text
from tests.docs.pictures.made import recording
from vllm_codesign.model.errors import CodesignError

MADE = recording(
    {
        "a": [({"le": "0.1"}, [1, None, 0.25]), ({"le": "+Inf"}, [2, 3, 4])],
        "b": [],
        "c": [({}, [7])],
    },
    exemplars={"a": ((1.5, 0.25),)},
    no_data={"b": "no GPU in this run"},
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "recording.json"
    file.write_text(text(MADE))
    assert load(file) == MADE
    assert text(load(file)) == file.read_text()
    assert '\n[{"le":"0.1"},[1,null,0.25]],\n' in file.read_text()


def test_the_committed_one_is_as_its_recorder_writes_it() -> None:
    assert text(load()) == FILE.read_text()
    assert FILE.stat().st_size < 300_000


def test_no_label_tells_of_the_machine_that_it_was_made_on() -> None:
    values = {
        v for found in load().answers.values() for each in found for v in each.labels.values()
    }
    assert "tiny" in values
    assert not [value for value in values if "/" in value or "127.0.0.1" in value]


@pytest.mark.parametrize("content", ["", "[]", '{"about": "x"}', "not JSON"])
def test_one_that_is_not_whole_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "recording.json"
    file.write_text(content)
    with pytest.raises(CodesignError, match=COMMAND):
        load(file)


def test_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CodesignError, match=r"no recording \(FileNotFoundError.*write it with"):
        load(tmp_path / "none.json")


def test_a_series_that_is_too_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recording.json"
    file.write_text(text(MADE).replace("[2,3,4]", "[2,3]"))
    with pytest.raises(CodesignError, match="a series of a has 2 values, not 3"):
        load(file)


def test_why_a_query_is_empty() -> None:
    assert MADE.why_empty("b") == "no GPU in this run"
    assert MADE.why_empty("never asked").startswith("not asked in the recorded run")
    empty = recording({"a": []})
    assert empty.why_empty("a") == "no value in this run"
