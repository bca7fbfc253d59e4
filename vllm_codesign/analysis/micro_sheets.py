"""The tables of `codesign micro`, for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from vllm_codesign.analysis.micro import at, by_reason
from vllm_codesign.analysis.sheet import Sheet
from vllm_codesign.analysis.study_components import Published, published
from vllm_codesign.model.micro import FEWEST_ROUNDS, Growth, MicroRun, Timing

_NONE = "–"
_GROWTH = "Growth: time ~ size ^ exponent"
_Key = tuple[str, str, int | None]
FLAT, LINEAR = 0.1, (0.9, 1.1)
"""Exponents up to `FLAT` are called no growth, those within `LINEAR` linear."""
_TELL_A_CONSTANT = 4
"""Sizes that `micro.growth` needs before it fits a constant."""


def micro_sheets(run: MicroRun) -> tuple[Sheet, ...]:
    """Whatever the run has anything for."""
    components = [t for t in run.timings if t.group != "scheduler"]
    scheduler = [t for t in run.timings if t.group == "scheduler"]
    found = (
        _medians("Components: median ms of a call", components),
        _study(run),
        _medians("Scheduler: median ms of a call", scheduler),
        growth_sheet(_shown(run.growths), _GROWTH),
        _skipped(run),
    )
    return tuple(sheet for sheet in found if sheet is not None)


def _medians(title: str, timings: list[Timing]) -> Sheet | None:
    if not timings:
        return None
    sizes = sorted({t.tokens for t in timings if t.tokens is not None})
    sizeless = any(t.tokens is None for t in timings)
    counted = any(t.requests is not None for t in timings)
    rows: dict[_Key, dict[int | None, Timing]] = {}
    for timing in timings:
        key = timing.component, timing.variant, timing.requests
        rows.setdefault(key, {})[timing.tokens] = timing
    first = {key: place for place, key in reversed([*enumerate(key[:2] for key in rows)])}
    ordered = sorted(rows.items(), key=lambda row: (first[row[0][:2]], row[0][2] or 0))
    columns = [f"{size:,}\ntokens" for size in sizes] + (["of any\nsize"] if sizeless else [])
    places: list[int | None] = [*sizes, *([None] if sizeless else [])]
    return Sheet(
        title,
        ("call", "kind", *(["requests"] if counted else []), *columns, "widest\n95 %"),
        2,
        tuple(
            (
                component,
                variant,
                *([f"{requests:,}" if requests else _NONE] if counted else []),
                *(ms(found[size].median_ns) if size in found else _NONE for size in places),
                _widest(list(found.values())),
            )
            for (component, variant, requests), found in ordered
        ),
    )


def _widest(timings: Sequence[Timing]) -> str:
    widths = [_half_width(each) for each in timings if len(each.samples_ns) >= FEWEST_ROUNDS]
    return f"±{100 * max(widths):.0f} %" if widths else _NONE


def _half_width(timing: Timing) -> float:
    """Of its interval, as a share of the median."""
    if not timing.median_ns:
        return 0.0
    return (timing.high_ns - timing.low_ns) / 2 / timing.median_ns


def _study(run: MicroRun) -> Sheet | None:
    rows = []
    for figure in published()[1]:
        for variant, timings in _variants(run, figure.component):
            here = at(timings, figure.tokens)
            if here is not None:
                rows.append(_beside(figure, variant, here))
    if not rows:
        return None
    return Sheet(
        "Beside the MI300X study's host: ms",
        ("call", "kind", "tokens", "study", "here", "here / study"),
        2,
        tuple(rows),
    )


def _beside(figure: Published, variant: str, here_ns: float) -> tuple[str, ...]:
    factor = here_ns / 1e6 / figure.ms
    return (
        figure.component,
        variant,
        f"{figure.tokens:,}" if figure.tokens is not None else "any",
        f"{'< ' if figure.at_most else ''}{ms(figure.ms * 1e6)}",
        ms(here_ns),
        ("holds" if factor < 1 else f"does not hold: {factor:.1f} x")
        if figure.at_most
        else f"{factor:.2f} x",
    )


def _variants(run: MicroRun, component: str) -> Iterator[tuple[str, list[Timing]]]:
    found: dict[str, list[Timing]] = {}
    for timing in run.timings:
        if timing.component == component:
            found.setdefault(timing.variant, []).append(timing)
    yield from found.items()


def growth_sheet(growths: Sequence[Growth], title: str) -> Sheet | None:
    """A row for each; None where there is none."""
    if not growths:
        return None
    return Sheet(
        title,
        ("call", "kind", "against", "sizes", "with", "exponent [95 %]", "constant\nus", "it is"),
        2,
        tuple(
            (
                growth.component,
                growth.variant,
                growth.against,
                f"{growth.sizes[0]:,} to {growth.sizes[-1]:,}",
                _with(growth),
                f"{growth.exponent:.2f} [{growth.low:.2f}, {growth.high:.2f}]",
                f"{growth.constant_ns / 1e3:,.1f}" if growth.constant_ns else _NONE,
                verdict(growth),
            )
            for growth in growths
        ),
    )


def _shown(growths: Sequence[Growth]) -> list[Growth]:
    """Of the scheduler's, those over the widest range of sizes: growth is surest there."""
    widest: dict[tuple[str, str, str], Growth] = {}
    for growth in growths:
        key = growth.component, growth.variant, growth.against
        if key not in widest or _breadth(growth) > _breadth(widest[key]):
            widest[key] = growth
    return list(widest.values())


def _breadth(growth: Growth) -> tuple[float, int]:
    """And with the most of what was held fixed, where two are as wide."""
    return growth.sizes[-1] / growth.sizes[0], growth.at or 0


def _with(growth: Growth) -> str:
    if growth.at is None:
        return _NONE
    return f"{growth.at:,} {'requests' if growth.against == 'tokens' else 'tokens'}"


def verdict(growth: Growth) -> str:
    """In words; not sure where the interval reaches into another word, or the sizes are too few to
    tell a constant, which makes growth look like less."""
    said = _word(growth.exponent)
    sure = _word(growth.low) == said == _word(growth.high)
    return said if sure and len(growth.sizes) >= _TELL_A_CONSTANT else f"{said}, not surely"


def _word(exponent: float) -> str:
    if exponent <= FLAT:
        return "no growth"
    if exponent < LINEAR[0]:
        return "below linear"
    return "linear" if exponent <= LINEAR[1] else "above linear"


def _skipped(run: MicroRun) -> Sheet | None:
    if not run.skipped:
        return None
    return Sheet("Not timed", ("what", "why"), 2, tuple(by_reason(run.skipped)))


def ms(nanoseconds: float) -> str:
    """Three significant digits, never an exponent."""
    value = nanoseconds / 1e6
    if value <= 0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"
