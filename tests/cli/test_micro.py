"""`codesign micro` and `codesign report --micro` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support import traces
from tests.support.micro import run
from vllm_codesign.cli import micro, report
from vllm_codesign.model.micro import MicroRun


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(micro.command, list(arguments))


def test_what_needs_no_model_runs_and_is_written(tmp_path: Path) -> None:
    out = tmp_path / "new" / "micro.json"
    result = asked("sha256", "sse_parse", "--tokens", "1000,2000,4000", "--rounds", "3",
                   "--out", str(out))  # fmt: skip
    assert result.exit_code == 0, result.output
    written = MicroRun.model_validate_json(out.read_text())
    assert [(t.component, t.tokens) for t in written.timings] == [
        ("sha256", 1_000), ("sha256", 2_000), ("sha256", 4_000), ("sse_parse", None),
    ]  # fmt: skip
    assert {len(t.samples_ns) for t in written.timings} == {3}
    assert [(g.component, g.against) for g in written.growths] == [("sha256", "tokens")]
    assert written.environment["tokenizer"] == "none was needed"
    assert "Beside the MI300X study" in result.stdout
    assert result.stdout.splitlines()[-1] == (
        f"{out}: 4 timings; codesign report --micro {out} draws them"
    )
    assert [path.name for path in out.parent.iterdir()] == ["micro.json"]


def test_json_is_what_was_written(tmp_path: Path) -> None:
    out = tmp_path / "micro.json"
    result = asked("sha256", "--tokens", "1000", "--rounds", "2", "--json", "--out", str(out))
    assert json.loads(result.stdout) == json.loads(out.read_text())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "no component 'nothing'; there is: encode, decode,"),
        (("--tokens", "1000,x"), "--tokens '1000,x' is no list of numbers: write it like"),
        (("--tokens", "5"), "--tokens 5: sizes are from 16 to 1,000,000 tokens"),
        (("sha256", "--seconds", "0.000001"), "nothing could be timed (sha256 at 1,000 tokens; "),
        (("sha256", "--out", "/dev/null/x"), "cannot write /dev/null/x (its folder is a file)"),
    ],
)
def test_wrong_input_is_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    given = arguments if "--out" in arguments else (*arguments, "--out", str(tmp_path / "x"))
    result = asked(*given)
    assert result.exit_code != 0
    assert str(result.exception).startswith(said)
    assert "\n" not in str(result.exception)


def test_help_names_every_component() -> None:
    text = asked("--help").output
    assert all(name in text for name in micro.NAMES)
    assert "codesign report --micro out/micro.json" in text


def test_a_report_of_it_alone_and_beside_a_capture(tmp_path: Path) -> None:
    file, out = tmp_path / "micro.json", tmp_path / "report.html"
    file.write_text(run().model_dump_json())
    alone = ["--micro", str(file), "--out", str(out)]
    result = CliRunner().invoke(report.command, alone, catch_exceptions=False)
    assert result.stdout == f"{out}: {len(run().timings)} timings drawn\n"
    assert "What single components cost here" in out.read_text()

    traces.write_capture(tmp_path / "run" / "capture", run=traces.run_info())
    CliRunner().invoke(report.command, [str(tmp_path / "run"), *alone], catch_exceptions=False)
    page = out.read_text()
    assert "Single components, timed alone" in page
    assert "Where the time went" in page


def test_a_comparison_has_no_room_for_it(tmp_path: Path) -> None:
    file = tmp_path / "micro.json"
    file.write_text(run().model_dump_json())
    result = CliRunner().invoke(report.command, ["a", "--against", "b", "--micro", str(file)])
    assert str(result.exception) == (
        "--micro goes with one capture or alone: leave --against and arms out"
    )
