"""`codesign analyze` and `codesign report` from the command line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.support import traces
from vllm_codesign.analysis.overview import overview
from vllm_codesign.cli import analyze, report


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    traces.write_capture(tmp_path / "capture", run=traces.run_info(drops={"worker": 2}))
    (tmp_path / "results.json").write_text(traces.bench_run().model_dump_json())
    return tmp_path


def printed(demo: Path, width: int) -> list[str]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    analyze.render(overview(demo), console)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_tables_side_by_side(demo: Path) -> None:
    lines = printed(demo, 120)
    assert lines[0] == "LOSSY CAPTURE: 2 records were lost (worker 2)"
    assert any("View: latency, per request." in line for line in lines)
    (heading, _) = [line for line in lines if line.startswith("client (the study's columns)")]
    assert "server (from inside)" in heading
    assert any(
        line.startswith("Decode    100.0 100.0 100.0 20   tokenize wait     15.00 10.00 30.00")
        for line in lines
    )
    assert "conc4: of the 30.00 ms" in " ".join(lines[-4:])


def test_narrow_terminals_get_one_below_the_other(demo: Path) -> None:
    lines = printed(demo, 60)
    assert lines.count("server (from inside)") == 2
    assert max(len(line) for line in lines if line.startswith("tokenize")) <= 60


def test_analyze_prints_json(demo: Path) -> None:
    result = CliRunner().invoke(analyze.command, [str(demo), "--json"], catch_exceptions=False)
    assert [s["name"] for s in json.loads(result.stdout)["scenarios"]] == ["single", "conc4"]


def test_analyze_in_a_pipe(demo: Path) -> None:
    result = CliRunner().invoke(analyze.command, [str(demo)], catch_exceptions=False)
    assert result.stdout.splitlines()[-1].startswith("conc4: of the 30.00 ms"), "in one line"


def test_report_writes_one_file(demo: Path) -> None:
    out = demo / "new" / "report.html"
    arguments = [str(demo), "--out", str(out), "--json"]
    result = CliRunner().invoke(report.command, arguments, catch_exceptions=False)
    assert json.loads(result.stdout) == {"report": str(out), "bytes": out.stat().st_size}
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_report_that_cannot_be_written(demo: Path) -> None:
    (demo / "file").write_text("")
    result = CliRunner().invoke(report.command, [str(demo), "--out", str(demo / "file" / "x")])
    assert str(result.exception).startswith("cannot write ")


@pytest.mark.parametrize("command", [analyze.command, report.command])
def test_help_has_an_example(command: object) -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert "out/demo" in result.output
