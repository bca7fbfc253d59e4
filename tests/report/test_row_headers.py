"""Every row of every table says what it is of: a screen reader reads it with each of its cells."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.analysis.test_against import demo, read, stepwise
from tests.analysis.test_arms import arms_run
from tests.report.test_kv import of_session
from tests.support import traces
from vllm_codesign.analysis.against import against
from vllm_codesign.analysis.arms import compare
from vllm_codesign.analysis.overview import overview
from vllm_codesign.report.against_page import render_against
from vllm_codesign.report.arms_page import render_arms
from vllm_codesign.report.page import render


def _whole(tmp_path: Path) -> str:
    view = overview(stepwise(tmp_path))
    found = traces.traces()
    found[0] = of_session(found[0], "agent-a", "agent-b", 7)
    kv = overview(traces.write_capture(tmp_path / "kv", found).path)
    return render(replace(view, kv=kv.kv, run=kv.run))


def _against(tmp_path: Path) -> str:
    return render_against(against(read(demo(tmp_path)), read(demo(tmp_path / "there"))))


def _arms(tmp_path: Path) -> str:
    run = arms_run(tmp_path, {"hbm": (0.0, 1.0), "lmcache": (40.0, 41.0)})
    return render_arms(run, compare(run, tmp_path), tmp_path)


PAGES = {"report": _whole, "against": _against, "arms": _arms}
CAPTIONS = {
    "report": {
        *("Client: the study's columns", "Server: from inside", "what would change it", "device"),
        *("Accounting: parts of 20 requests", "KV transfers", "who evicted whom"),
        *("prompt tokens by session", "Hooks"),
    },
    "against": {"single, mean ms", "conc4, mean ms"},
    "arms": {"CPU % as the MI300X study timed it"},
}


@pytest.fixture(scope="module", params=PAGES)
def page(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    name: str = request.param
    return name, PAGES[name](tmp_path_factory.mktemp(name))


def _tables(page: str) -> dict[str, list[str]]:
    """Rows of the body of each table, by caption."""
    found = re.findall(r"<caption[^>]*>(.*?)</caption>(.*?)</table>", page, re.DOTALL)
    bodies = ((caption, rest.split("<tbody>")[1]) for caption, rest in found)
    return {caption: re.findall(r"<tr.*?</tr>", body, re.DOTALL) for caption, body in bodies}


def test_every_row_has_a_header(page: tuple[str, str]) -> None:
    name, text = page
    tables = _tables(text)
    for begin in CAPTIONS[name]:
        assert any(rows for caption, rows in tables.items() if caption.startswith(begin)), begin
    bare = [
        (caption, row)
        for caption, rows in tables.items()
        for row in rows
        if not re.search(r'<th scope="row"[^>]*>\s*(?:<i[^>]*></i>)?\s*[^<\s]', row)
    ]
    assert bare == []


def test_a_scenario_of_several_arms_is_named_once(page: tuple[str, str]) -> None:
    name, text = page
    if name != "arms":
        pytest.skip("has no arms")
    (rows,) = _tables(text).values()
    heads = [re.findall(r'<th scope="row"[^>]*>(.*?)</th>', row) for row in rows]
    assert heads == [["single", "hbm"], ["lmcache"], ["conc4", "hbm"], ["lmcache"]]
