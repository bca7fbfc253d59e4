"""The dashboards' pictures in a real browser: by its own font no text lies over another."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from docs.pictures.dashboard import DASHBOARDS, FOLDER
from tests.browser.conftest import SHOTS
from tests.support.browser import Page

NAMES = sorted(path.stem for path in DASHBOARDS.glob("*.json"))
_SLACK = 0.5
"""A line's box is as high as the font, its letters are not."""
_BOXES = """[...document.querySelectorAll('svg text')].map(text => {
  const box = text.getBBox(), panel = text.parentElement.querySelector(':scope > rect.panel');
  return {said: text.textContent, x: box.x, y: box.y + box.height * 0.15, right: box.x + box.width,
    bottom: box.y + box.height * 0.9, panel: panel && panel.getBBox(),
    fill: getComputedStyle(text).fill};
})"""
_BACKGROUND = "getComputedStyle(document.querySelector('rect.panel')).fill"
_WIDTH = "document.querySelector('img').getBoundingClientRect().width"


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def wrapped(name: str, folder: Path, inline: bool) -> str:
    """A page with the picture in it, as the browser wants one; its address."""
    file = FOLDER / f"{name}.svg"
    content = file.read_text(encoding="utf-8") if inline else f'<img src="{file.as_uri()}">'
    page = folder / "page.html"
    page.write_text(
        f'<!doctype html><html data-ready="1"><meta charset="utf-8"><body>{content}</body></html>',
        encoding="utf-8",
    )
    return page.as_uri()


def boxes(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(_BOXES)
    assert found
    return found


def test_no_text_lies_over_another_or_beyond_its_panel(
    page: Page, name: str, tmp_path: Path
) -> None:
    page.open(wrapped(name, tmp_path, inline=True))
    found = boxes(page)
    over = [
        (one["said"], other["said"])
        for one, other in combinations(found, 2)
        if one["x"] + _SLACK < other["right"]
        and other["x"] + _SLACK < one["right"]
        and one["y"] + _SLACK < other["bottom"]
        and other["y"] + _SLACK < one["bottom"]
    ]
    assert over == []
    for each in found:
        if panel := each["panel"]:
            assert panel["x"] <= each["x"], each["said"]
            assert each["right"] <= panel["x"] + panel["width"], each["said"]


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    parts = [int(each) / 255 for each in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_a_light_and_on_a_dark_page(
    page: Page, name: str, scheme: str, tmp_path: Path
) -> None:
    page.media(prefers_color_scheme=scheme)
    page.open(wrapped(name, tmp_path, inline=True))
    behind = luminance(page.evaluate(_BACKGROUND))
    assert (behind > 0.5) == (scheme == "light")
    for each in boxes(page):
        light, dark = sorted((luminance(each["fill"]), behind), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, each["said"]


def test_it_is_shown_as_an_image(page: Page, name: str, tmp_path: Path) -> None:
    page.open(wrapped(name, tmp_path, inline=False))
    page.wait("document.querySelector('img').complete")
    assert page.evaluate(_WIDTH) == 1000
    assert page.complaints == []
    page.screenshot(SHOTS / f"dashboard-{name}.png")
