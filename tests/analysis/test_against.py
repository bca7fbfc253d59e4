"""Two captures: the same scenario part by part, and what cannot be compared."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.accounting.cases import ENGINE
from tests.analysis.test_arms import accountable
from tests.backends import known
from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.analysis.against import IN_ENGINE, against, sheet
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
    body = table.split("<tbody>")[1]
    cells = [html.unescape(c) for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", body)]
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


def stepwise(folder: Path, at_request: int = 0) -> Path:
    """The same demo, recorded at level `step`, but for so many of the second scenario."""
    made = accountable()
    for number, trace in enumerate(made):
        level = "request" if number >= len(made) - at_request else "step"
        trace.root.attributes[S.LEVEL.key] = level  # type: ignore[index]
        children = tuple(
            replace(span, attributes={**span.attributes, S.ENGINE_PID.key: ENGINE})
            if span.name in (S.ENGINE_QUEUE.name, S.PREFILL.name, S.DECODE.name)
            else span
            for span in trace.children
        )
        made[number] = RequestTrace(trace.root, children)
    traces.write_capture(folder / "capture", [*made, *known.steps(made)])
    (folder / "results.json").write_text(traces.bench_run(made).model_dump_json())
    return folder


def test_of_two_levels_only_what_both_have_is_compared(
    views: tuple[Server, Server], tmp_path: Path
) -> None:
    deep, flat = read(stepwise(tmp_path / "deep")), views[1]
    found = against(deep, flat)
    assert found.levels == (
        "single, conc4: recorded at level step here and at level request there; below `step` "
        "device and host cannot be told apart, so what the engine did is one row (in the engine) "
        "and exposed host time is left out; record both at level step (`CODESIGN_LEVEL=step`) to "
        "compare part by part",
    )
    for pair in found.pairs:
        accounts = [each.accounts for each in (pair.here, pair.there)]
        rows = {row[0]: row[1:] for row in sheet(pair).rows}
        assert not {"host, exposed", "host, hidden"} & rows.keys()
        assert not any(row.startswith(("device", "engine", "queue")) for row in rows)
        assert {IN_ENGINE, "frontend.cpu", "total"} <= rows.keys()
        for which, of in enumerate(accounts):
            assert of is not None
            engine = sum(
                stat.mean
                for part, stat in of.parts.items()
                if part.split(".")[0] in ("device", "queue", "engine")
            )
            assert float(rows[IN_ENGINE][which].replace(",", "")) == pytest.approx(engine, rel=0.01)
            assert engine > 0
            parts = [float(row[which].replace(",", "")) for name, row in rows.items()]
            assert sum(parts) == pytest.approx(2 * of.total.mean, rel=0.01), "and the total itself"
    assert "exposed" not in found.sentence
    assert against(flat, deep).levels[0].startswith("single, conc4: recorded at level request here")
    again = read(stepwise(tmp_path / "again"))
    assert against(deep, again).levels == against(*views).levels == ()


def test_a_level_that_was_switched_meanwhile_is_neither(tmp_path: Path) -> None:
    switched = [read(stepwise(tmp_path / each, at_request=5)) for each in ("a", "b")]
    found = against(*switched)
    assert [pair.alike for pair in found.pairs] == [True, False]
    assert found.levels[0].startswith(
        "conc4: recorded at level request and step here and at level request and step there; "
    )


def test_both_levels_are_said_in_the_terminal_and_on_the_page(
    fast: Path, slow: Path, tmp_path: Path
) -> None:
    deep, out = stepwise(tmp_path / "deep"), tmp_path / "against.html"
    asked = [str(fast), "--against", str(deep), "--out", str(out)]
    result = CliRunner().invoke(report.command, asked, catch_exceptions=False)
    (line,) = [each for each in result.stderr.splitlines() if "level" in each]
    assert line.startswith("codesign: single, conc4: recorded at level request here and at level")
    page = out.read_text()
    assert "<strong>Different levels</strong>, single, conc4: recorded at level request" in page
    assert page.index("Different levels") < page.index("<section")
    assert f"</i>{IN_ENGINE}</span>" in page
    assert "device.decode" not in page
    assert "engine.decode" not in page

    asked = [str(fast), "--against", str(slow), "--out", str(out)]
    result = CliRunner().invoke(report.command, asked, catch_exceptions=False)
    assert "level" not in result.stderr
    assert "Different levels" not in out.read_text()


def test_a_second_capture_that_is_not_there(slow: Path, tmp_path: Path) -> None:
    asked = [str(slow), "--against", str(tmp_path / "nothing"), "--out", str(tmp_path / "x.html")]
    result = CliRunner().invoke(report.command, asked)
    assert str(result.exception).startswith(f"{tmp_path}/nothing does not exist")
    assert not (tmp_path / "x.html").exists()
