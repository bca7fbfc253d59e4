"""The page of a run with arms: the terminal's cells, and shares that sum to the whole."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.analysis.test_arms import arms_run
from vllm_codesign.analysis.arms import ArmFigures, Compared, Comparison, Shares, compare
from vllm_codesign.analysis.arms_sheet import arms_sheet
from vllm_codesign.cli import report
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.report.arms_page import chart, render_arms

HEADERS_MS = {"hbm": (0.0, 1.0, 0.5), "lmcache": (40.0, 41.0, 40.4)}


def compared(*shares: Shares | None) -> Comparison:
    arms = tuple(
        ArmFigures(f"arm{place}", 1, {}, None, None, each) for place, each in enumerate(shares)
    )
    return Comparison("arm0", {"arm0": 1}, (Compared("<s>", arms),), (), ())


def test_the_pages_cells_are_the_terminals(tmp_path: Path) -> None:
    run = arms_run(tmp_path, HEADERS_MS)
    comparison = compare(run, tmp_path)
    page = render_arms(run, comparison, tmp_path)

    body = page.split("<tbody>")[1].split("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    found = [
        tuple(html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row))
        for row in rows
    ]
    assert found == list(arms_sheet(comparison).rows)
    assert "beyond noise" in found[1]
    assert "bootstrap over servers" in page


def test_a_secret_in_a_file_of_before_is_not_shown(tmp_path: Path) -> None:
    run = arms_run(tmp_path, HEADERS_MS)
    flags = ["--api-key", "s3cret", "--model=https://bob:s3cret@h/m"]
    old = run.model_copy(update={"server_flags": flags, "model": "https://bob:s3cret@h/m"})
    page = render_arms(old, compare(run, tmp_path), tmp_path)
    assert "s3cret" not in page
    assert "--api-key ... --model=https://...@h/m" in page


def test_shares_sum_to_the_whole() -> None:
    drawn = chart(compared(Shares(3, 40.0, 30.0, 15.0, 10.0, 5.0), None))
    assert drawn is not None
    (bar,) = drawn.bars
    assert bar.name == "<s> · arm0", "an arm without shares has no row"
    assert {segment.name: segment.width for segment in bar.segments} == {
        "exposed host": 40.0,
        "device": 30.0,
        "queue.capacity": 15.0,
        "kv.load": 10.0,
        "unexplained": 5.0,
    }
    assert [tick.label for tick in drawn.ticks] == ["0", "20", "40", "60", "80", "100"]


def test_below_level_step_the_engine_has_no_parts() -> None:
    drawn = chart(compared(Shares(3, 40.0, None, None, None, 5.0)))
    assert drawn is not None
    widths = {segment.name: segment.width for segment in drawn.bars[0].segments}
    assert widths["engine, steps not recorded"] == pytest.approx(55.0)
    assert "device" not in widths
    assert chart(compared(None)) is None


def test_report_of_a_run_with_arms(tmp_path: Path) -> None:
    arms_run(tmp_path, HEADERS_MS)
    out = tmp_path / "arms.html"
    asked = [str(tmp_path), "--out", str(out), "--scenario", "conc4"]
    result = CliRunner().invoke(report.command, asked, catch_exceptions=False)
    assert result.stdout == f"{out}: 6 servers of hbm, lmcache compared\n"
    page = out.read_text()
    assert page.count("</table>") == 1
    assert ">conc4<" in page
    assert ">single<" not in page

    asked[-1] = "nothing"
    missing = CliRunner().invoke(report.command, asked)
    assert isinstance(missing.exception, CodesignError)
    assert str(missing.exception) == "no scenario 'nothing' here; there is: single, conc4"


def test_one_server_of_it_is_a_capture_as_ever(tmp_path: Path) -> None:
    arms_run(tmp_path, {"hbm": (0.0,)})
    out = tmp_path / "one.html"
    asked = [str(tmp_path / "hbm" / "1"), "--out", str(out)]
    CliRunner().invoke(report.command, asked, catch_exceptions=False)
    assert "Where the time went" in out.read_text()
