"""Two captures: the same scenario part by part, and what cannot be compared."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.analysis.test_arms import accountable
from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.analysis.against import against, sheet
from vllm_codesign.analysis.overview import overview
from vllm_codesign.analysis.samples import Samples
from vllm_codesign.analysis.sides import Server, server_of
from vllm_codesign.cli import report
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import RequestTrace


def demo(folder: Path, wait_ms: float = 0, keep: int = 40) -> Path:
    """A demo folder whose second scenario waits so much longer for the tokenizer."""
    made = accountable()[:keep]
    for number, trace in enumerate(made[20:], 20):
        longer = traces.completed(
            trace.trace_id, trace.root.start_ns, traces.ENCODE * ((number - 20) % 4) + wait_ms
        )
        longer.root.attributes[S.MONOTONIC.key] = trace.root.attributes[S.MONOTONIC.key]  # type: ignore[index]
        made[number] = RequestTrace(longer.root, longer.children)
    traces.write_capture(folder / "capture", made)
    (folder / "results.json").write_text(traces.bench_run(made).model_dump_json())
    return folder


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo(tmp_path_factory.mktemp("slow"), wait_ms=30)


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo(tmp_path_factory.mktemp("fast"))


def read(folder: Path, scenario: str | None = None) -> Server:
    samples = Samples()
    return server_of(overview(folder, None, scenario, samples=samples), samples, scenario)


@pytest.fixture
def views(slow: Path, fast: Path) -> tuple[Server, Server]:
    return read(slow), read(fast)


def test_the_difference_is_what_was_made_longer(views: tuple[Server, Server]) -> None:
    found = against(*views)
    assert [pair.name for pair in found.pairs] == ["single", "conc4"]
    same, changed = (sheet(pair) for pair in found.pairs)
    assert {row[3] for row in same.rows} <= {"0.000", "–"}
    rows = {row[0]: row[1:] for row in changed.rows}
    surely = ("+30.00", "[+30.00, +30.00]", "beyond noise", "+17.6")
    assert rows["frontend.wait"] == ("45.00", "15.00", *surely)
    assert rows["total"] == ("200.0", "170.0", *surely)
    assert rows["engine.decode"][2:5] == ("0.000", "[0.000, 0.000]", "within noise")
    assert rows["host, exposed"][2] == "+30.00"
    assert rows["engine.decode"][2] == "0.000"


def test_the_sentence_is_of_the_most_clients(views: tuple[Server, Server]) -> None:
    said = against(*views).sentence
    assert said.startswith("conc4: a request takes 200.0 ms here and 170.0 ms there (+17.6 %);")
    assert said.endswith("what differs most is frontend.wait, +30.00 ms (beyond noise).")
    back = against(views[1], views[0]).sentence
    assert "(-15.0 %)" in back
    assert back.endswith("frontend.wait, -30.00 ms (beyond noise).")


def test_what_only_one_has_is_named(views: tuple[Server, Server], tmp_path: Path) -> None:
    few = read(demo(tmp_path, keep=20))
    found = against(views[0], few)
    assert [pair.name for pair in found.pairs] == ["single"]
    assert found.comparison.notes == ("conc4 is in this one alone",)
    with pytest.raises(CodesignError, match="no scenario with completed requests in common") as no:
        against(read(demo(tmp_path / "x"), "conc4"), few)
    assert "has conc4; " in str(no.value)


def test_the_page_has_the_cells_and_the_caution(slow: Path, fast: Path, tmp_path: Path) -> None:
    out = tmp_path / "against.html"
    asked = [str(slow), "--against", str(fast), "--out", str(out)]
    result = CliRunner().invoke(report.command, asked, catch_exceptions=False)
    assert result.stdout.startswith(f"{out}: conc4: a request takes 200.0 ms here")
    page = out.read_text()
    (table,) = re.findall(r"<caption>conc4, mean ms.*?</table>", page, re.DOTALL)
    cells = [html.unescape(c) for c in re.findall(r"<td[^>]*>(.*?)</td>", table)]
    wanted = [c for row in sheet(against(read(slow), read(fast)).pairs[1]).rows for c in row]
    assert cells == wanted
    assert "conc4: total 171.1 -&gt; 201.1 ms, +30.00 ms [+30.00, +30.00], beyond noise" in page
    assert "servers: 1 of A, 1 of B. Servers that are started alike differ too" in page
    assert "<script" not in page
    assert not re.search(r"https?:", page)
    assert page.count('role="listitem"') == 4, "two scenarios, one bar above the other"

    asked.append("--json")
    result = CliRunner().invoke(report.command, asked, catch_exceptions=False)
    assert json.loads(result.stdout) == {"report": str(out), "bytes": out.stat().st_size}


def test_a_second_capture_that_is_not_there(slow: Path, tmp_path: Path) -> None:
    asked = [str(slow), "--against", str(tmp_path / "nothing"), "--out", str(tmp_path / "x.html")]
    result = CliRunner().invoke(report.command, asked)
    assert str(result.exception).startswith(f"{tmp_path}/nothing does not exist")
    assert not (tmp_path / "x.html").exists()
