"""Times against sizes, both axes logarithmic: a panel for each component, in SVG.

A straight line is a power, and its slope the exponent: linear growth climbs one decade of time in
one decade of size, in every panel alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from typing import Literal

from vllm_codesign.analysis.micro_sheets import ms, verdict
from vllm_codesign.analysis.study_components import published
from vllm_codesign.model.micro import Dimension, Growth, MicroRun, Timing
from vllm_codesign.report import colours

WIDTH, HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 8, 30
_MARGIN = 0.06
"""Of each axis, left free at its ends."""
_LEAST_DECADES = 1.0
"""Of time: a flat line must look flat."""
_RADIUS = 3.5
_STUDY = "the study"
_POINTS = 2
"""A line has at least as many."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One measured size: where it stands, where its interval begins and ends, what it says."""

    x: float
    y: float
    low: float
    high: float
    shape: str
    """SVG path of the marker."""
    said: str


@dataclass(frozen=True, slots=True)
class Line:
    """One series; `path` joins its marks. The study's has no line and hollow marks."""

    name: str
    colour: str
    path: str
    marks: tuple[Mark, ...]
    hollow: bool = False
    key: str = ""
    """SVG path of its marker in a box of 12 by 12."""


@dataclass(frozen=True, slots=True)
class Label:
    """A number beside an axis, and where."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot."""

    title: str
    of: Literal["components", "scheduler"]
    against: Dimension
    lines: tuple[Line, ...]
    across: tuple[Label, ...]
    up: tuple[Label, ...]
    grows: tuple[str, ...]

    @property
    def aloud(self) -> str:
        """What a screen reader says of it."""
        series = (
            f"{line.name}: {', '.join(mark.said for mark in line.marks)}" for line in self.lines
        )
        return f"{self.title}, time against {self.against}. {'. '.join((*series, *self.grows))}"


@dataclass(frozen=True, slots=True)
class _Axis:
    """A logarithmic axis, from `low` to `high`, drawn from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 2)

    def ticks(self) -> list[float]:
        """Whole decades, and where there is no second one, twice and five times them as well."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        for factors in ((1,), (1, 2, 5)):
            found = [
                factor * 10.0**power
                for power in powers
                for factor in factors
                if self.low <= math.log10(factor * 10.0**power) <= self.high
            ]
            if len(found) > 1:
                break
        return found


def panels(run: MicroRun) -> tuple[Panel, ...]:
    """A panel for each component against tokens; of the scheduler for each kind of step and
    against requests as well. What was timed at a single size has none."""
    found: dict[tuple[str, str, Dimension], dict[str, list[Timing]]] = {}
    dimensions: tuple[Dimension, ...] = ("tokens", "requests")
    for timing, against in product(run.timings, dimensions):
        if not getattr(timing, against):
            continue
        scheduler = timing.group == "scheduler"
        title = f"{timing.component}, {timing.variant}" if scheduler else timing.component
        name = _fixed(timing, against) if scheduler else timing.variant or timing.component
        found.setdefault((title, timing.component, against), {}).setdefault(name, []).append(timing)
    made = (
        _panel(title, component, against, lines, run.growths)
        for (title, component, against), lines in found.items()
    )
    return tuple(panel for panel in made if panel is not None)


def _fixed(timing: Timing, against: Dimension) -> str:
    if against == "tokens":
        return f"{timing.requests:,} requests" if timing.requests else timing.component
    return f"{timing.tokens:,} tokens" if timing.tokens else timing.component


def _panel(
    title: str,
    component: str,
    against: Dimension,
    series: dict[str, list[Timing]],
    growths: Iterable[Growth],
) -> Panel | None:
    lines = {
        name: sorted(timings, key=lambda t: _size(t, against))
        for name, timings in series.items()
        if len({_size(t, against) for t in timings}) >= _POINTS
    }
    if not lines:
        return None
    every = [*chain.from_iterable(lines.values())]
    study = [
        (figure.tokens, figure.ms * 1e6)
        for figure in published()[1]
        if against == "tokens" and figure.component == component
        if figure.tokens and not figure.at_most
    ]
    sizes = [_size(timing, against) for timing in every] + [size for size, _ in study]
    times = [value for t in every for value in (t.low_ns, t.high_ns)] + [ns for _, ns in study]
    x = _axis(sizes, _LEFT, WIDTH - _RIGHT)
    y = _axis(times, HEIGHT - _BOTTOM, _TOP, _LEAST_DECADES)
    drawn = [
        _line(name, number, timings, against, x, y)
        for number, (name, timings) in enumerate(lines.items())
    ]
    if study:
        drawn.append(_study(study, x, y))
    named = {(t.component, t.variant) for t in every}
    return Panel(
        title,
        "scheduler" if every[0].group == "scheduler" else "components",
        against,
        tuple(drawn),
        tuple(Label(x(size), _short(size)) for size in x.ticks()),
        tuple(Label(y(time_ns), _time(time_ns)) for time_ns in y.ticks()),
        tuple(_grows(g) for g in growths if _of(g, named) and g.against == against),
    )


def _of(growth: Growth, named: set[tuple[str, str]]) -> bool:
    return (growth.component, growth.variant) in named


def _grows(growth: Growth) -> str:
    whose = growth.variant
    if growth.at is not None:
        whose = f"{growth.at:,} {'requests' if growth.against == 'tokens' else 'tokens'}"
    return (
        f"{whose + ': ' if whose else ''}exponent {growth.exponent:.2f} "
        f"[{growth.low:.2f}, {growth.high:.2f}], {verdict(growth)}"
    )


def _size(timing: Timing, against: Dimension) -> int:
    size: int = getattr(timing, against)
    return size


def _axis(values: Iterable[float], begin: float, end: float, least: float = 0.3) -> _Axis:
    logs = [math.log10(value) for value in values if value > 0]
    low, high = min(logs), max(logs)
    missing = max(0.0, least - (high - low)) / 2
    free = _MARGIN * max(high - low, least)
    return _Axis(low - missing - free, high + missing + free, begin, end)


def _line(
    name: str, number: int, timings: list[Timing], against: Dimension, x: _Axis, y: _Axis
) -> Line:
    marks = tuple(
        Mark(
            at := x(_size(timing, against)),
            up := y(timing.median_ns),
            y(max(timing.low_ns, 1e-3)),
            y(timing.high_ns),
            _shape(number, at, up),
            f"{_size(timing, against):,} {against} {ms(timing.median_ns)} ms",
        )
        for timing in timings
    )
    path = "M" + "L".join(f"{mark.x:g} {mark.y:g}" for mark in marks)
    colour = colours.SERIES[number % len(colours.SERIES)]
    return Line(name, colour, path, marks, key=_shape(number, 6, 6))


def _study(points: list[tuple[int, float]], x: _Axis, y: _Axis) -> Line:
    marks = tuple(
        Mark(
            at := x(size),
            up := y(time_ns),
            up,
            up,
            _shape(0, at, up),
            f"{size:,} tokens {ms(time_ns)} ms",
        )
        for size, time_ns in points
    )
    return Line(_STUDY, "currentColor", "", marks, hollow=True, key=_shape(0, 6, 6))


def _shape(number: int, x: float, y: float) -> str:
    """Series are told apart by their marks, too: circle, square, diamond, triangle."""
    r = _RADIUS
    shapes = (
        f"M{x - r:g} {y:g}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x - r:g} {y - r:g}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:g} {y - 1.3 * r:g}l{1.3 * r:g} {1.3 * r:g}l{-1.3 * r:g} {1.3 * r:g}"
        f"l{-1.3 * r:g} {-1.3 * r:g}z",
        f"M{x:g} {y - 1.2 * r:g}l{1.2 * r:g} {2.1 * r:g}h{-2.4 * r:g}z",
    )
    return shapes[number % len(shapes)]


def _short(size: float) -> str:
    return f"{size / 1_000:,.0f}k" if size >= 1_000 else f"{size:,.0f}"


def _time(nanoseconds: float) -> str:
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= factor:
            return f"{nanoseconds / factor:,.0f} {unit}"
    return f"{nanoseconds:,.0f} ns"


def intervals(timings: Iterable[Timing]) -> Iterator[tuple[str, ...]]:
    """Rows of the table under the plots: every figure with its interval."""
    for timing in timings:
        yield (
            timing.component,
            timing.variant,
            f"{timing.requests:,}" if timing.requests else "–",
            f"{timing.tokens:,}" if timing.tokens is not None else "any",
            ms(timing.median_ns),
            f"[{ms(timing.low_ns)}, {ms(timing.high_ns)}]",
            str(len(timing.samples_ns)),
        )
