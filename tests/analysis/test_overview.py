"""Captures and results are found, what is wrong with them is said, errors are one line."""

import json
from pathlib import Path

import pytest

from tests.support import traces
from vllm_codesign.analysis.overview import overview
from vllm_codesign.analysis.plain import plain
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store.capture import Removed


def demo(folder: Path, **run: object) -> Path:
    traces.write_capture(folder / "capture", run=traces.run_info(**run))
    (folder / "results.json").write_text(traces.bench_run().model_dump_json())
    return folder


def test_results_beside_the_capture_are_found(tmp_path: Path) -> None:
    folder = demo(tmp_path)
    by_folder = overview(folder)
    by_capture = overview(by_folder.capture.path)
    assert by_folder.results == by_capture.results == folder / "results.json"
    assert by_folder.lossy == by_folder.notes == ()
    assert [s.name for s in by_folder.tables.scenarios] == ["single", "conc4"]


def test_newest_of_the_configured_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = traces.write_capture(tmp_path)
    monkeypatch.setenv("CODESIGN_STORE", str(tmp_path))
    assert overview(None).capture == capture
    monkeypatch.setenv("CODESIGN_STORE", "")
    with pytest.raises(CodesignError, match="CODESIGN_STORE is empty"):
        overview(None)


def test_results_name_their_capture(tmp_path: Path) -> None:
    capture = traces.write_capture(tmp_path / "elsewhere")
    bench = traces.bench_run().model_copy(update={"capture": str(capture.path)})
    (tmp_path / "results.json").write_text(bench.model_dump_json())
    assert overview(None, tmp_path / "results.json").capture == capture


def test_of_several_captures_the_one_that_the_results_name(tmp_path: Path) -> None:
    store = tmp_path / "capture-store"
    one = traces.write_capture(store, run=traces.run_info(pid=1))
    other = traces.write_capture(store, run=traces.run_info(pid=2))
    assert overview(tmp_path).capture == other
    bench = traces.bench_run().model_copy(update={"capture": str(one.path)})
    (tmp_path / "results.json").write_text(bench.model_dump_json())
    assert overview(tmp_path).capture == one
    assert overview(other.path).capture == other
    assert overview(other.path).results == tmp_path / "results.json"


def test_losses_are_said(tmp_path: Path) -> None:
    view = overview(demo(tmp_path, drops={"api_server": 1_200, "worker": 0}, complete=False))
    view.capture.update(
        lambda run: run.model_copy(update={"removed": Removed(segments=3, bytes=5_000_000)})
    )
    torn = min(view.capture.traces.glob("*.parquet"))
    torn.write_bytes(torn.read_bytes()[:-9])
    view = overview(tmp_path)
    assert view.lossy[:2] == (
        "1,200 records were lost (api_server 1,200)",
        "3 segments (5.0 MB) were removed to keep the store within its caps",
    )
    assert str(torn) in view.lossy[2]
    assert view.notes[0].startswith("the server is still running")
    counters = {"requests_lost": 2, "rows_not_stored": 15, "exporter_starts": 3, "spans": 9}
    view.capture.update(lambda run: run.model_copy(update={"counters": counters, "drops": {}}))
    view = overview(tmp_path)
    assert view.lossy[:2] == (
        "2 requests were lost whole",
        "15 rows could not be written to the store",
    )
    assert view.notes[1] == "the exporter was started 3 times"
    view.capture.run_file.unlink()
    assert overview(tmp_path).lossy[0].startswith("losses are not known: cannot read")


def test_plain_is_json(tmp_path: Path) -> None:
    content = json.loads(json.dumps(plain(overview(demo(tmp_path), scenario="conc4"))))
    (scenario,) = content["scenarios"]
    assert scenario["server"]["tokenize_wait"] == {"n": 20, "mean": 15.0, "p50": 10.0, "p95": 30.0}
    assert content["view"] == "latency, per request"
    assert content["schema_version"] == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "is not what `codesign bench` of this version writes: the file: Invalid JSON"),
        ("{}", "is not what `codesign bench` of this version writes: tool_version: Field required"),
    ],
)
def test_results_that_are_none(tmp_path: Path, content: str, text: str) -> None:
    folder = demo(tmp_path)
    (folder / "results.json").write_text(content)
    with pytest.raises(CodesignError) as caught:
        overview(folder)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors(tmp_path: Path) -> None:
    folder = demo(tmp_path)
    with pytest.raises(CodesignError, match="no scenario 'x' here; there is: single, conc4"):
        overview(folder, scenario="x")
    with pytest.raises(CodesignError, match=r"cannot read .*none.json: No such file"):
        overview(folder, tmp_path / "none.json")
    empty = traces.write_capture(tmp_path / "empty", [])
    with pytest.raises(CodesignError, match=r"no request in .* yet"):
        overview(empty.path)
