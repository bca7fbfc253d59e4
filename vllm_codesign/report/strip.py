"""The device over time as one strip for each engine: busy, and idle by cause, in SVG paths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vllm_codesign.accounting import EngineTime, Fleet
from vllm_codesign.report import colours
from vllm_codesign.report.bars import Tick, ticks

BINS = 300
"""Of a strip: a run has thousands of steps, and a screen some thousand pixels."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One kind of time; `path` is in bins across and percent down."""

    name: str
    colour: str
    path: str
    percent: float
    """Of the whole strip."""


@dataclass(frozen=True, slots=True)
class Strip:
    """One engine."""

    engine: int
    layers: tuple[Layer, ...]

    @property
    def aloud(self) -> str:
        """What a screen reader says of it."""
        listed = ", ".join(f"{layer.name} {layer.percent:.1f} %" for layer in self.layers)
        return f"Engine {self.engine} over time: {listed}; the rest is time without work"


@dataclass(frozen=True, slots=True)
class Strips:
    """All engines on one axis, ms since the first request."""

    strips: tuple[Strip, ...]
    ticks: tuple[Tick, ...]
    bin_ms: float

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Name and colour of every kind that is drawn."""
        shown = {layer.name: layer.colour for strip in self.strips for layer in strip.layers}
        return tuple((n, shown[n]) for n in map(_name, colours.STRIP) if n in shown)


def strips(fleet: Fleet) -> Strips | None:
    """In each of `BINS` stretches the share of it in which the device worked, and in which it
    stood idle for what cause. None where no engine has any."""
    engines = [engine for engine in fleet.engines if engine.strip]
    if not engines or fleet.end_ns <= fleet.start_ns:
        return None
    edges = np.linspace(fleet.start_ns, fleet.end_ns, BINS + 1)
    length_ms = (fleet.end_ns - fleet.start_ns) / 1e6
    return Strips(
        tuple(Strip(engine.engine, _layers(engine, edges)) for engine in engines),
        ticks(length_ms),
        length_ms / BINS,
    )


def _layers(engine: EngineTime, edges: np.ndarray) -> tuple[Layer, ...]:  # type: ignore[type-arg]
    found = []
    below = np.zeros(len(edges) - 1)
    for kind, colour in colours.STRIP.items():
        shares = 100 * binned(engine, kind, edges)
        if not shares.any():
            continue
        path = _path(below, below + shares)
        found.append(Layer(_name(kind), colour, path, float(shares.mean())))
        below = below + shares
    return tuple(found)


def _path(low: np.ndarray, high: np.ndarray) -> str:  # type: ignore[type-arg]
    """Boxes from `low` to `high` percent above the ground, one for each run of equal bins."""
    tops, bottoms = np.round(100 - high, 1), np.round(100 - low, 1)
    changes = np.flatnonzero((np.diff(tops) != 0) | (np.diff(bottoms) != 0)) + 1
    starts = np.concatenate([[0], changes]).tolist()
    ends = np.concatenate([changes, [len(tops)]]).tolist()
    boxes = (
        f"M{start} {tops[start]:g}H{end}V{bottoms[start]:g}H{start}z"
        for start, end in zip(starts, ends, strict=True)
        if tops[start] < bottoms[start]
    )
    return "".join(boxes)


def _name(kind: str) -> str:
    return kind if kind == "busy" else f"idle: {kind}"


def binned(engine: EngineTime, kind: str, edges: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Share of each bin that the pieces of this kind cover."""
    pieces = np.array([(a, b) for a, b, k in engine.strip if k == kind], dtype=float).reshape(-1, 2)
    if not len(pieces):
        return np.zeros(len(edges) - 1)
    # Covered up to x: whole pieces before it, and the part of the one it lies in.
    lengths = np.concatenate([[0.0], np.cumsum(pieces[:, 1] - pieces[:, 0])])
    index = np.searchsorted(pieces[:, 0], edges, side="right")
    before = np.maximum(index - 1, 0)
    inside = np.clip(edges - pieces[before, 0], 0, pieces[before, 1] - pieces[before, 0])
    covered = np.where(index > 0, lengths[before] + inside, 0.0)
    return np.asarray(np.diff(covered) / np.diff(edges))
