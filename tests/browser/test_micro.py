"""`codesign micro` in the report, in a real browser: light and dark, read aloud, narrow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.conftest import SHOTS
from tests.browser.test_report import _CONTRAST
from tests.support import busy_capture
from tests.support.browser import Browser, Page
from tests.support.micro import run
from vllm_codesign.analysis.overview import overview
from vllm_codesign.report.micro_page import render_micro, section
from vllm_codesign.report.page import render


@pytest.fixture(scope="module")
def alone(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of its own."""
    out = tmp_path_factory.mktemp("micro") / "micro.html"
    out.write_text(render_micro(run(), Path("out/micro.json")), encoding="utf-8")
    return out


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_seen_in_light_and_dark(page: Page, alone: Path, scheme: str) -> None:
    page.media(prefers_color_scheme=scheme)
    page.open_still(alone.as_uri())
    assert page.evaluate(_CONTRAST) == []
    marks = page.evaluate(
        "[...document.querySelectorAll('.plot > svg')].map(s => s.querySelectorAll('.mark').length)"
    )
    assert marks == [8, 6, 9, 9], "three of ours and five of the study; two lines; three"
    boxes = page.evaluate(
        "[...document.querySelectorAll('.plot > svg')].flatMap(s => {"
        "const whole = s.getBoundingClientRect();"
        "return [...s.querySelectorAll('.mark, text')].filter(m => {"
        "const b = m.getBoundingClientRect(); return b.left < whole.left || b.right > whole.right"
        "|| b.top < whole.top || b.bottom > whole.bottom}).map(m => m.outerHTML)})"
    )
    assert boxes == [], "every mark and number lies inside its plot"
    page.screenshot(SHOTS / f"micro-{scheme}.png")
    assert page.complaints == []
    assert page.requested == [alone.as_uri()]


def test_every_plot_is_read_aloud_and_tabled(page: Page, alone: Path) -> None:
    page.open_still(alone.as_uri())
    images = [node["name"] for node in page.accessibility() if node["role"] == "image"]
    assert len(images) == 4
    assert "encode, time against tokens" in images[0]
    assert "exponent 1.00 [0.98, 1.02], linear" in images[0]
    page.evaluate("document.querySelector('details').open = true")
    rows = page.evaluate("document.querySelectorAll('details table tbody tr').length")
    assert rows == len(run().timings) + len(run().growths)


def test_a_narrow_window_scrolls_in_its_tables_only(page: Page, alone: Path) -> None:
    page.size(400, 800)
    page.open_still(alone.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.screenshot(SHOTS / "micro-narrow.png")


def test_it_stands_in_a_captures_report(page: Page, tmp_path: Path) -> None:
    folder = busy_capture.demo(tmp_path, busy_capture.requests(20))
    out = folder / "report.html"
    drawn = section(run(), Path("out/micro.json"))
    out.write_text(render(overview(folder), None, drawn), encoding="utf-8")
    page.open(out.as_uri())
    assert page.evaluate("document.querySelectorAll('#h-micro, #h-requests').length") == 2
    assert page.evaluate("document.querySelectorAll('.plot').length") == 4
    assert page.complaints == []
