"""Which values are labelled, and where a value lies."""

from __future__ import annotations

import pytest

from docs.pictures.axes import time_axis, value_axis


@pytest.mark.parametrize(
    ("values", "unit", "labels"),
    [
        ([0.037, 0.012], "s", ["0 s", "10 ms", "20 ms", "30 ms", "40 ms"]),
        ([1.7], "s", ["0 s", "500 ms", "1 s", "1.5 s", "2 s"]),
        ([7, 3], "short", ["0", "2", "4", "6", "8"]),
        # Whole things have no halves.
        ([1, 2], "short", ["0", "1", "2"]),
        ([0, 0], "cps", ["0 c/s", "1 c/s"]),
        ([3000.0], "bytes", ["0 B", "1 KiB", "2 KiB", "3 KiB"]),
        ([], "short", ["0", "1"]),
    ],
)
def test_labels_are_round(values: list[float], unit: str, labels: list[str]) -> None:
    assert [label for _, label in value_axis(values, unit, 140, 0).labels] == labels


def test_a_value_lies_between_its_labels() -> None:
    axis = value_axis([0.037], "s", 200.0, 100.0)
    assert (axis.at(0.0), axis.at(0.04)) == (200.0, 100.0)
    assert axis.at(0.01) == pytest.approx(175.0)
    assert axis.at(0.05) == 100.0
    assert not axis.has(0.05)


def test_the_panel_s_own_ends_are_kept() -> None:
    axis = value_axis([0.2], "percentunit", 112, 0, (0, 1))
    assert (axis.low, axis.high) == (0, 1)
    assert [label for _, label in axis.labels] == ["0%", "25%", "50%", "75%", "100%"]


def test_values_below_zero_are_within() -> None:
    axis = value_axis([-3.0, 5.0], "short", 140, 0)
    assert axis.low <= -3
    assert [value for value, _ in axis.labels if value == 0]


@pytest.mark.parametrize(
    ("span_s", "pixels", "labels"),
    [
        (480, 300, ["0", "2 min", "4 min", "6 min", "8 min"]),
        (480, 700, [f"{n} min" if n else "0" for n in range(9)]),
        (90, 200, ["0", "0:30", "1 min", "1:30"]),
    ],
)
def test_time_is_labelled_in_minutes(span_s: float, pixels: float, labels: list[str]) -> None:
    axis = time_axis(span_s, 10.0, 10.0 + pixels)
    assert [label for _, label in axis.labels] == labels
    assert axis.at(span_s) == 10.0 + pixels
