import pytest

from vllm_codesign.bench import results
from vllm_codesign.model.bench import BenchRun, Scenario
from vllm_codesign.model.errors import CodesignError


def run_of(**changes: object) -> BenchRun:
    fields: dict[str, object] = {
        "tool_version": "0",
        "url": "http://127.0.0.1:8000",
        "model": "m",
        "started_unix_ns": 1,
        "scenarios": [Scenario(name="s", concurrency=1, prompt_tokens=100)],
        "requests": [],
        **changes,
    }
    return BenchRun.model_validate(fields)


def test_what_is_written_reads_back_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "results.json"
    results.write(path, run_of())
    results.write(path, run_of(model="n"))

    assert results.read(path) == run_of(model="n")
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_no_file_is_no_run(tmp_path):
    assert results.read(tmp_path / "results.json") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}'])
def test_a_damaged_file_is_refused_with_the_cure(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)

    with pytest.raises(CodesignError, match="not a results file of this version") as error:
        results.read(path)

    assert "--out" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"url": "http://other:1"}, "another server (http://127.0.0.1:8000, not http://other:1)"),
        ({"model": "n"}, "another model (m, not n)"),
        ({"arrival": "closed"}, "another arrival (batch, not closed)"),
        ({"scenarios": []}, "other scenarios: name another folder"),
        ({"server_command": ["vllm"]}, "another server"),
    ],
)
def test_another_run_is_refused(tmp_path, changes, what):
    with pytest.raises(CodesignError) as error:
        results.check_same(tmp_path, run_of(), run_of(**changes))

    assert what in str(error.value)


def test_a_server_of_ours_is_the_same_on_another_port(tmp_path):
    old = run_of(server_command=["vllm", "--port", "1", "--x"], url="http://127.0.0.1:1")
    new = run_of(server_command=["vllm", "--port", "2", "--x"], url="http://127.0.0.1:2")

    results.check_same(tmp_path, old, new)
    with pytest.raises(CodesignError):
        results.check_same(tmp_path, old, run_of(server_command=["vllm", "--port", "2", "--y"]))
