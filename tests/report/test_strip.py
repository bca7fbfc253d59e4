"""The device's strip: shares of each bin, drawn from the ground up."""

from __future__ import annotations

import re

import pytest

from vllm_codesign.accounting import EngineTime, Fleet
from vllm_codesign.report.strip import BINS, strips


def fleet(*pieces: tuple[int, int, str], end: int = BINS * 10) -> Fleet:
    busy = sum(b - a for a, b, kind in pieces if kind == "busy")
    idle: dict[str, int] = {}
    for a, b, kind in pieces:
        if kind != "busy":
            idle[kind] = idle.get(kind, 0) + b - a
    return Fleet((EngineTime(7, busy, idle, 0, 3, pieces),), 0, end)


def area(path: str) -> float:
    """Of the boxes, in bins times percent."""
    boxes = re.findall(r"M(\d+) ([\d.]+)H(\d+)V([\d.]+)H\d+z", path)
    assert "".join(f"M{a} {t}H{b}V{g}H{a}z" for a, t, b, g in boxes) == path
    return sum((int(b) - int(a)) * (float(g) - float(t)) for a, t, b, g in boxes)


def test_areas_are_the_shares() -> None:
    found = strips(fleet((0, 1_000, "busy"), (1_000, 1_505, "prepare"), (1_505, 3_000, "no_work")))
    assert found is not None
    (strip,) = found.strips
    layers = {layer.name: layer for layer in strip.layers}
    assert list(layers) == ["busy", "idle: prepare"], "time without work is not drawn"
    assert layers["busy"].path == "M0 0H100V100H0z"
    assert layers["idle: prepare"].path == "M100 0H150V100H100zM150 50H151V100H150z"
    for layer, length in zip(strip.layers, (1_000, 505), strict=True):
        assert area(layer.path) == pytest.approx(length * 10)
        assert layer.percent == pytest.approx(length / 30)
    assert strip.aloud == (
        "Engine 7 over time: busy 33.3 %, idle: prepare 16.8 %; the rest is time without work"
    )
    assert [name for name, _ in found.legend] == ["busy", "idle: prepare"]


def test_kinds_within_one_bin_are_stacked() -> None:
    found = strips(fleet((0, 4, "schedule"), (4, 10, "busy"), (10, 3_000, "no_work")))
    assert found is not None
    busy, schedule = found.strips[0].layers
    assert (busy.path, schedule.path) == ("M0 40H1V100H0z", "M0 0H1V40H0z")


def test_without_a_strip_there_is_none() -> None:
    assert strips(fleet()) is None
    assert strips(fleet((0, 1, "busy"), end=0)) is None
