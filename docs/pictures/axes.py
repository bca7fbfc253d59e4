"""Axes: where a value and an instant lie, and which of them are labelled."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from docs.pictures.units import scale, worded

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LABEL = 60.0
"""Pixels between two labels of the time axis, at least."""
_TIME_STEPS_S = (5.0, 10.0, 30.0, 60.0, 120.0, 240.0, 300.0, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` at pixel `start` to `high` at pixel `end`; labels by value."""

    low: float
    high: float
    start: float
    end: float
    labels: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """The value's pixel; a value beyond the axis lies on its end."""
        within = min(max(value, self.low), self.high)
        return self.start + (within - self.low) / (self.high - self.low) * (self.end - self.start)

    def has(self, value: float) -> bool:
        return self.low <= value <= self.high


def value_axis(
    values: Iterable[float],
    unit: str,
    bottom: float,
    top: float,
    fixed: tuple[float | None, float | None] = (None, None),
) -> Axis:
    """From zero, or the least value below it, to a round number above the largest.

    `fixed` are the ends that the panel itself wants. All of them whole numbers: no label between.
    """
    found = [*values]
    low = fixed[0] if fixed[0] is not None else min(0.0, *found, 0.0)
    most = fixed[1] if fixed[1] is not None else max(found, default=0.0)
    if most <= low:
        most = low + 1.0
    count = max(2, int(abs(bottom - top) / 28))
    whole = all(value == int(value) for value in found) and unit != "percentunit"
    step = _step((most - low) / count, most, unit, whole)
    high = fixed[1] if fixed[1] is not None else math.ceil(most / step - 1e-9) * step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    labels = tuple((n * step, worded(n * step, unit)) for n in range(first, last + 1))
    low = low if fixed[0] is not None else min(low, math.floor(low / step + 1e-9) * step)
    return Axis(low, high, bottom, top, labels)


def _step(least: float, most: float, unit: str, whole: bool) -> float:
    """The least round step of at least `least`, round in the unit that `most` is written in."""
    divisor = scale(most, unit).divisor
    power = 10.0 ** math.floor(math.log10(least / divisor))
    step = next(s for s in _STEPS if s * power >= least / divisor * (1 - 1e-9)) * power * divisor
    return max(step, 1.0) if whole else step


def time_axis(span_s: float, left: float, right: float) -> Axis:
    """Seconds since the first instant, labelled in minutes."""
    room = int((right - left) / _LABEL)
    step = next((s for s in _TIME_STEPS_S if span_s / s <= room), span_s)
    labels = tuple((n * step, _minutes(n * step)) for n in range(int(span_s / step + 1e-9) + 1))
    return Axis(0.0, span_s, left, right, labels)


def _minutes(seconds: float) -> str:
    if seconds % 60:
        return f"{int(seconds // 60)}:{int(seconds % 60):02}"
    return f"{int(seconds // 60)} min" if seconds else "0"
