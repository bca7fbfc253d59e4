"""`codesign compare` on what `codesign bench` leaves: what a side may be, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.analysis.test_against import demo
from tests.analysis.test_arms import arms_run
from tests.support import traces
from vllm_codesign.analysis.overview import overview
from vllm_codesign.cli.compare import command
from vllm_codesign.cli.main import main
from vllm_codesign.model.errors import CodesignError


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo(tmp_path_factory.mktemp("before"))


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo(tmp_path_factory.mktemp("after"), wait_ms=30)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def said(*arguments: object) -> dict[str, object]:
    return json.loads(run(*arguments, "--json"))


def refused(*arguments: object) -> str:
    with pytest.raises(CodesignError) as error:
        run(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(folder: Path, change: Callable[[dict], None]) -> Path:
    path = folder / "results.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return folder


@pytest.fixture
def other(after: Path, tmp_path: Path) -> Path:
    """A copy of `after`, to be changed."""
    return shutil.copytree(after, tmp_path / "other")


CONC4 = (
    "conc4: total 171.1 -> 201.1 ms, +30.00 ms [+30.00, +30.00], beyond noise; TTFT 71.04 -> "
    "101.0 ms, +30.00 ms [+30.00, +30.00]; tokenize.wait +30.00 ms [+30.00, +30.00], 100 % of the "
    "difference in total; nothing else changed beyond noise."
)


def test_two_folders_of_bench(before: Path, after: Path) -> None:
    text = run(before, after)
    assert text.splitlines()[0] == f"A {before} (vLLM 0.32.0, level request)"
    assert text.splitlines()[-1] == CONC4
    assert "single: total 156.1 -> 156.1 ms, 0.000 ms [0.000, 0.000], within noise; nothing" in text
    assert "conc4: 20 requests of A, 20 of B, in 5 and 5 batches" in text
    assert (
        "largest avoidable part of most requests: A frontend.cpu (10), B frontend.wait (20)" in text
    )
    assert "servers: 1 of A, 1 of B. Servers that are started alike differ too" in text
    back = run(after, before)
    assert "tokenize.wait -30.00 ms [-30.00, -30.00], 100 % of the difference in total" in back


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_figure_loses_a_digit(
    before: Path, after: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run(before, after).splitlines()
    assert any(
        all(cell in line for cell in ("171.1", "201.1", "+30.00", "[+30.00, +30.00]"))
        for line in lines
    )
    tables = [line for line in lines if line.startswith("  ")]
    assert max(map(len, tables)) <= max(width, 80)


@pytest.mark.parametrize(
    "named", ["results.json", "capture", "."], ids=["results", "capture", "folder"]
)
def test_what_a_side_may_be(before: Path, after: Path, named: str) -> None:
    document = said(before / named, after)
    assert [each["scenario"] for each in document["scenarios"]] == ["single", "conc4"]
    (server,) = document["a"]["servers"]
    assert server["results"]
    assert server["capture"].startswith(str(before / "capture"))
    assert document["scenarios"][1]["figures"]["part.frontend.wait"]["difference_ms"] == 30
    assert document["notes"] == []


def test_servers_of_an_arm_are_one_side(tmp_path: Path) -> None:
    arms_run(tmp_path, {"hbm": (0.0, 1.0, 0.5), "lmcache": (40.0, 41.0, 40.4)})
    document = said(tmp_path / "hbm", tmp_path / "lmcache")
    for scenario in document["scenarios"]:
        assert (scenario["drawn"], scenario["units"], scenario["n"]) == (
            "repeats",
            [3, 3],
            [60, 60],
        )
        total = scenario["figures"]["client.total"]
        assert total["within_noise"] is False
        assert total["difference_ms"] == pytest.approx((121.4 - 1.5) / 3)
        # The server took no longer: there is nothing to blame.
        assert scenario["figures"]["server.total"]["within_noise"] is True
        assert scenario["causes"] == []
    assert len(document["a"]["servers"]) == 3
    text = run(tmp_path / "hbm", tmp_path / "lmcache")
    assert f"A {tmp_path}/hbm (3 servers)" in text
    assert "drawn again: whole servers (3 of A, 3 of B)" in text
    one = said(tmp_path / "hbm/1", tmp_path / "lmcache/1")
    assert one["scenarios"][0]["drawn"] == "batches"
    both = refused(tmp_path, tmp_path / "hbm")
    assert both == (
        f"{tmp_path} has several arms: name one for each side, of {tmp_path}/hbm, "
        f"{tmp_path}/lmcache"
    )


def test_an_arm_without_the_file_above_it(tmp_path: Path) -> None:
    arms_run(tmp_path / "run", {"hbm": (0.0, 1.0, 0.5), "lmcache": (40.0, 41.0, 40.4)})
    (tmp_path / "run/results.json").unlink()
    assert len(said(tmp_path / "run/hbm", tmp_path / "run/lmcache")["b"]["servers"]) == 3


def test_results_alone_give_the_clients_numbers(before: Path, other: Path) -> None:
    shutil.rmtree(other / "capture")
    text = run(before, other)
    assert f"note: {other}: the client's numbers alone: {other} is not a capture" in text
    assert "conc4: total 171.1 -> 201.1 ms, +30.00 ms [+30.00, +30.00], beyond noise; TTFT" in text
    assert "accounting" not in text
    assert "largest avoidable part of most requests: A frontend.cpu (10), B –" in text


def test_captures_alone_give_the_servers(before: Path, after: Path, tmp_path: Path) -> None:
    a, b = (
        shutil.copytree(each / "capture", tmp_path / each.name / "x") for each in (before, after)
    )
    document = said(a, b)
    (only,) = document["scenarios"]
    assert only["scenario"] == "(no client)"
    assert only["headline"] == "server.total"
    assert only["drawn"] == "requests"
    assert only["within_noise"] is None
    assert "no scenario with completed requests in common" in refused(a, after)


def test_another_load_under_the_same_name_is_not_compared(before: Path, other: Path) -> None:
    changed(other, lambda d: d["scenarios"][1].update(max_tokens=7))
    document = said(before, other)
    assert [each["scenario"] for each in document["scenarios"]] == ["single"]
    assert document["notes"] == [
        "conc4 is not the same load on both sides, so it is not compared: max_tokens 100 in "
        f"{before}, 7 in {other}"
    ]
    line = refused(before, other, "--scenario", "conc4")
    assert line.startswith("nothing can be compared: conc4 is not the same load on both sides")
    changed(other, lambda d: d.update(arrival="closed"))
    assert "arrival batch in" in refused(before, other)


def test_another_model_and_other_lengths_are_said(before: Path, other: Path) -> None:
    def change(document: dict) -> None:
        document["model"] = "larger"
        for row in document["requests"]:
            row["prompt_tokens"] = 2_800

    notes = said(before, changed(other, change))["notes"]
    assert notes == [
        f"the model is tiny in {before} and larger in {other}: what differs may be the models' own",
        f"single: prompt_tokens are 2,500 a request in {before} and 2,800 in {other}, so the "
        "requests are not the same work",
        f"conc4: prompt_tokens are 2,500 a request in {before} and 2,800 in {other}, so the "
        "requests are not the same work",
    ]


def test_losses_are_said_first(before: Path, other: Path) -> None:
    overview(other).capture.update(lambda info: info.model_copy(update={"drops": {"worker": 7}}))
    first = run(before, other).splitlines()[0]
    assert first == f"LOSSY CAPTURE: {other}: 7 records were lost (worker 7)"


def test_failed_and_untraced_requests_are_counted(before: Path, other: Path) -> None:
    def change(document: dict) -> None:
        for row in document["requests"][:2]:
            row.update(status="error", error="timeout", total_ms=None)
        document["requests"][30]["trace_id"] = "f" * 32

    text = run(before, changed(other, change))
    assert f"single: 2 failed in {other}: timeout" in text
    assert f"note: conc4: 1 of 20 requests have no trace in {other}:" in text
    assert "single: 20 requests of A, 18 of B" in text


def test_a_side_whose_requests_all_failed(before: Path, other: Path) -> None:
    def fail(document: dict) -> None:
        for row in document["requests"]:
            if row["scenario"] == "conc4":
                row.update(status="error", error="timeout", total_ms=None)

    shutil.rmtree(changed(other, fail) / "capture")
    document = said(before, other)
    assert [each["scenario"] for each in document["scenarios"]] == ["single"]
    assert document["notes"][0] == f"conc4 is in {before} alone"
    assert "no scenario 'conc4' in" in refused(before, other, "--scenario", "conc4")


def test_no_figure_in_common(before: Path, other: Path, tmp_path: Path) -> None:
    """One side knows its clients alone, of the other the client knows nothing."""

    def fail(document: dict) -> None:
        for row in document["requests"]:
            row.update(status="error", error="timeout", total_ms=None)

    changed(other, fail)
    alone = shutil.copytree(before, tmp_path / "alone")
    shutil.rmtree(alone / "capture")
    line = refused(alone, other)
    assert line.startswith("nothing can be compared: single has no figure that both sides know; ")


def test_levels_that_differ(before: Path, tmp_path: Path) -> None:
    found = traces.traces()
    for trace in found:
        trace.root.attributes["codesign.level"] = "step"  # type: ignore[index]
        trace.root.attributes["codesign.monotonic_ns"] = 1_000  # type: ignore[index]
    traces.write_capture(tmp_path / "capture", found)
    (tmp_path / "results.json").write_text(traces.bench_run(found).model_dump_json())
    document = said(before, tmp_path)
    assert document["notes"][0].startswith(
        f"recorded at different levels (request in {before}, step in {tmp_path}): the parts"
    )
    keys = document["scenarios"][0]["figures"]
    assert not [key for key in keys if key.startswith("part.")]
    assert "phase.tokenize_wait" in document["scenarios"][1]["figures"]
    assert "server.total" in keys


def test_what_cannot_be_compared_is_one_line(
    before: Path, after: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "does not exist" in refused(before, tmp_path / "nothing")
    assert refused(before, before).startswith("both sides have the server ")
    assert refused(before, before / "results.json").startswith("both sides have the server ")
    assert f"no scenario 'x' in {before}; there is: " in refused(before, after, "--scenario", "x")
    (tmp_path / "results.json").write_text("{}")
    assert "is not what `codesign bench`" in refused(before, tmp_path)
    assert main(["compare", str(before), str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
