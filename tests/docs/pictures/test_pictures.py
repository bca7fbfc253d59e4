"""The committed pictures: current, true to the recording, and no text over another."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from docs.pictures.dashboard import DASHBOARDS, FOLDER, pictures
from docs.pictures.panel import Json, read
from docs.pictures.recording import load
from tests.support import drawn

DOCS = FOLDER.parent
NAMES = sorted(path.stem for path in DASHBOARDS.glob("*.json"))


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    return pictures()


def dashboard(name: str) -> Json:
    found: Json = json.loads((DASHBOARDS / f"{name}.json").read_text())
    return found


def picture(name: str) -> str:
    return (FOLDER / f"{name}.svg").read_text(encoding="utf-8")


def shown(name: str) -> list[tuple[dict[str, Any], drawn.Panel]]:
    """Panels of the file with what was drawn of each."""
    found = drawn.panels(picture(name))
    panels = [p for p in dashboard(name)["panels"] if p["type"] != "row"]
    assert len(panels) == len(found)
    return list(zip(panels, found.values(), strict=True))


def test_drawing_again_changes_nothing(made: dict[Path, str]) -> None:
    assert sorted(path.stem for path in made) == NAMES
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, "run `make docs`"
    assert sorted(FOLDER.glob("*.svg")) == sorted(made)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_it(name: str) -> None:
    assert f"](pictures/{name}.svg)" in (DOCS / "dashboards.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_no_text_lies_over_another_or_beyond_its_panel(name: str) -> None:
    root = ElementTree.fromstring(picture(name))
    assert drawn.overlapping([*drawn.texts(root)]) == []
    for _, panel in shown(name):
        box = panel.box
        outside = [
            text.content
            for text in panel.texts
            if text.box.x < box.x
            or text.box.right > box.right
            or text.box.y < box.y
            or text.box.bottom > box.bottom
        ]
        assert not outside, (panel.title, outside)


@pytest.mark.parametrize("name", NAMES)
def test_every_line_is_the_recording_s(name: str) -> None:
    """Read back by what the axes' labels say: names, and each point to a pixel."""
    recording = load()
    compared = 0
    for panel, found in shown(name):
        wanted = read(panel, recording, {})
        if panel["type"] != "timeseries" or not wanted.lines:
            continue
        lines = found.lines()
        # Several series of one name would be read as one.
        assert len(lines) == len(wanted.lines), found.title
        assert [*lines] == [line.name for line in wanted.lines]
        below = [0.0] * recording.instants
        time = found.time_scale()
        for line in wanted.lines:
            stacked = wanted.stacked and not line.right
            scale = found.value_scale(line.right)
            points = [
                (time.at(n * recording.step_s), scale.at(value + (below[n] if stacked else 0.0)))
                for n, value in enumerate(line.values)
                if value is not None
            ]
            drawn_points = sorted(point for stretch in lines[line.name] for point in stretch)
            assert len(drawn_points) == len(points), (found.title, line.name)
            top = found.grid().y
            for (x, y), (at, want) in zip(drawn_points, points, strict=True):
                assert abs(x - at) < 0.6, (found.title, line.name)
                # What is beyond a fixed axis lies on its end.
                assert abs(y - max(want, top)) < 1.0, (found.title, line.name)
            compared += len(points)
            if stacked:
                below = [b + (v or 0.0) for b, v in zip(below, line.values, strict=True)]
    assert compared > 50


@pytest.mark.parametrize("name", NAMES)
def test_names_are_whole(name: str) -> None:
    assert not [word for _, panel in shown(name) for word in panel.words if "…" in word]


def test_panels_as_wide_as_the_page_have_one_time_axis() -> None:
    wide = [found for panel, found in shown("host-device") if panel["gridPos"]["w"] == 24]
    grids = {(found.grid().x, found.grid().right) for found in wide if found.lines()}
    assert len(wide) > 10
    assert len(grids) == 1


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_data_says_why(name: str) -> None:
    recording = load()
    for panel, found in shown(name):
        wanted = read(panel, recording, {})
        if not wanted.lines:
            assert found.words[0] == "No data"
            said = " ".join(found.words[1:])
            assert wanted.missing
            assert all(reason in said for _, reason in wanted.missing)


def test_colours_tell_neighbours_apart() -> None:
    """In every panel the first twelve series have colours of their own."""
    for name in NAMES:
        for _, found in shown(name):
            classes = [
                group.get("class", "")
                for group in found.group.iter("{http://www.w3.org/2000/svg}g")
                if group.get("class")
            ]
            assert all(one != other for one, other in pairwise(classes))
            assert len({*classes[:12]}) == len(classes[:12])
