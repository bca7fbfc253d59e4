"""Cells are buckets, not cumulative, and the more is in one the stronger it is."""

from __future__ import annotations

import math

import pytest

from dashboards.panels import Query
from docs.pictures.heatmap import LEAST_OPACITY, Row, bound, opacity, place
from tests.docs.pictures.made import draw, panel

ANSWERS = {
    "q": [
        # Prometheus sorts labels as text.
        ({"le": "+Inf"}, [4.0, 5.0, 1.0]),
        ({"le": "0.1"}, [0.0, 0.0, 0.0]),
        ({"le": "0.5"}, [1.0, 5.0, None]),
        ({"le": "1.0"}, [4.0, 5.0, 1.0]),
    ]
}


def test_cells_are_what_lies_between_two_bounds() -> None:
    shown = draw(panel(Query("q", heatmap=True), kind="heatmap", unit="s"), ANSWERS)
    labels = [word for word in shown.words if word[0] in "≤>"]
    assert labels == ["≤ 100 ms", "≤ 500 ms", "≤ 1 s", "> 1 s"]
    cells = shown.cells()[:-5]
    grid, time = shown.grid(), shown.time_scale()
    # The first instant's cells would lie before the axis; they are as narrow as can be.
    found = {
        (
            round((box.right + 1 - grid.x) / (time.at(60) - grid.x)),
            round(4 * (grid.bottom - box.y) / grid.height),
        ): strength
        for box, strength in cells
    }
    # Row 2 is (0.1, 0.5], row 3 (0.5, 1]: 3 there and 1 below at first, then 5 below, then 1.
    assert found.keys() == {(0, 2), (0, 3), (1, 2), (2, 3)}
    assert found[1, 2] == 1.0
    assert found[0, 3] == pytest.approx(opacity(3, 5), abs=0.005)
    assert "5 requests in a bucket" in shown.words


def test_colours_grow_with_the_root() -> None:
    assert opacity(9, 9) == 1.0
    assert opacity(0, 9) == LEAST_OPACITY
    assert opacity(1, 9) == pytest.approx(LEAST_OPACITY + (1 - LEAST_OPACITY) / 3)


def test_a_value_lies_in_its_bucket() -> None:
    found = [Row(0, 0.1, ()), Row(0.1, 0.5, ()), Row(0.5, math.inf, ())]
    assert place(found, 0.05) == pytest.approx(0.5)
    assert place(found, 0.2) == pytest.approx(1.25)
    assert place(found, 7.0) == 2.5
    assert [bound(row, "s") for row in found] == ["≤ 100 ms", "≤ 500 ms", "> 500 ms"]


def test_empty_buckets_at_the_ends_are_left_out() -> None:
    answers = [({"le": f"{n}"}, [0.0 if n < 6 else 2.0] * 3) for n in range(1, 20)]
    shown = draw(panel(Query("q", heatmap=True), kind="heatmap"), {"q": answers})
    assert [word for word in shown.words if word[0] in "≤>"] == ["≤ 5", "≤ 6", "≤ 7"]
