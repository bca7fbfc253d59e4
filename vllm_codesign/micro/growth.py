"""How a component's time grows with its size: time ~ size ** exponent.

Two curves are at hand. The power, t = a n^b, is the straight line of least squares through the
logarithms. The power with a constant, t = c + a n^b with c, a >= 0, is the least squares of
relative errors, because a call that costs 10 us before it looks at its first token would
otherwise seem to grow more slowly than it does: at small sizes one sees only the constant.
The constant is fitted where there is something to tell it by, which is four sizes and a
largest median of `TELLING` times the smallest: below that the curve is flat within its own
noise and any exponent would fit, so the plain power says how much the time grew over these
sizes and no more. `tests/micro/test_growth.py` simulates both with known exponents.

The interval is that of rounds drawn again within each size (`analysis/bootstrap.py`). It says how
far the exponent would move if the rounds were run again here. It does not say how well a
power describes the component: caches and memory bend a curve in the same way in every round.
`Growth.method` therefore names the size furthest off the curve.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vllm_codesign.analysis import bootstrap
from vllm_codesign.model.micro import FEWEST_ROUNDS, Dimension, Growth, Timing

FEWEST_SIZES = 3
FEWEST_FOR_CONSTANT = 4
TELLING = 2.0
DRAWS = 1_000

_Values = npt.NDArray[np.float64]
_EXPONENTS = np.linspace(0.1, 3.0, 59)
"""Tried first, in steps of 1/20."""
_THIRDS = 12
"""(2/3) ** 12 of a tenth: to 0.001."""


@dataclass(frozen=True, slots=True)
class Fit:
    """time_ns = constant_ns + factor_ns * size ** exponent."""

    exponent: float
    low: float
    high: float
    """95 % bootstrap interval of the exponent."""
    constant_ns: float
    factor_ns: float
    furthest: float
    """Largest relative distance of a median from the curve."""
    method: str

    def at(self, size: float) -> float:
        """Nanoseconds by the curve."""
        return float(self.constant_ns + self.factor_ns * size**self.exponent)


def fit(sizes: Sequence[int], samples: Sequence[Sequence[float]], *, draws: int = DRAWS) -> Fit:
    """The curve through the medians of `samples`, nanoseconds by round, one group a size.

    The same samples give the same fit. ValueError where there are fewer than three different
    sizes, a size is not positive, or a time is not.
    """
    if len(sizes) != len(samples):
        raise ValueError(f"{len(sizes)} sizes, but samples of {len(samples)}")
    if len(set(sizes)) != len(sizes) or len(sizes) < FEWEST_SIZES or min(sizes) <= 0:
        raise ValueError(f"a fit needs {FEWEST_SIZES} different sizes above 0, not {list(sizes)}")
    if any(not len(values) or min(values) <= 0 for values in samples):
        raise ValueError("a fit needs times above 0 at each size")
    at = np.asarray(sizes, dtype=np.float64)
    medians = np.array([[float(np.median(values)) for values in samples]])
    with_constant = (
        len(sizes) >= FEWEST_FOR_CONSTANT and float(np.max(medians) / np.min(medians)) >= TELLING
    )
    curve = _power_and_constant if with_constant else _power
    value, low, high = bootstrap.of_medians(samples, lambda rows: curve(at, rows)[0], draws=draws)
    _, constant, factor = (float(each[0]) for each in curve(at, medians))
    fitted = constant + factor * at**value
    furthest = float(np.max(np.abs(fitted / medians[0] - 1)))
    kind = "c + a n^b, relative least squares" if with_constant else "a n^b, log-log least squares"
    return Fit(value, low, high, constant, factor, furthest, f"{kind} of medians")


def growths(timings: Sequence[Timing]) -> list[Growth]:
    """Every series that the timings hold: a component and variant against one dimension.

    A series has three sizes or more with the other dimension fixed, or absent.
    """
    found = []
    for against, other in _DIMENSIONS:
        series: defaultdict[tuple[str, str, str, int | None], list[Timing]] = defaultdict(list)
        for timing in timings:
            # A clock too coarse for a call, or a single round, tells nothing of growth.
            if len(timing.samples_ns) < FEWEST_ROUNDS or min(timing.samples_ns) <= 0:
                continue
            if getattr(timing, against):
                key = timing.group, timing.component, timing.variant, getattr(timing, other)
                series[key].append(timing)
        for each in series.values():
            if len({getattr(timing, against) for timing in each}) >= FEWEST_SIZES:
                found.append(_growth(each, against, other))
    order = {key: place for place, key in enumerate(dict.fromkeys(_named(t) for t in timings))}
    return sorted(found, key=lambda one: order[one.component, one.variant])


_DIMENSIONS: tuple[tuple[Dimension, Dimension], ...] = (
    ("tokens", "requests"),
    ("requests", "tokens"),
)


def _named(timing: Timing) -> tuple[str, str]:
    return timing.component, timing.variant


def _growth(series: Iterable[Timing], against: Dimension, other: Dimension) -> Growth:
    by_size: defaultdict[int, list[float]] = defaultdict(list)
    for timing in series:
        by_size[getattr(timing, against)] += timing.samples_ns
        one = timing
    sizes = sorted(by_size)
    found = fit(sizes, [by_size[size] for size in sizes])
    return Growth(
        component=one.component,
        group=one.group,
        variant=one.variant,
        against=against,
        at=getattr(one, other),
        sizes=sizes,
        exponent=found.exponent,
        low=found.low,
        high=found.high,
        constant_ns=found.constant_ns,
        method=f"{found.method}; furthest size {found.furthest:.0%} off",
    )


def _power(at: _Values, rows: _Values) -> tuple[_Values, _Values, _Values]:
    """Exponent, constant (0) and factor of each row of medians."""
    x, y = np.log(at), np.log(rows)
    centred = x - x.mean()
    exponent = y @ centred / (centred @ centred)
    factor = np.exp(y.mean(axis=1) - exponent * x.mean())
    return exponent, np.zeros(len(rows)), factor


def _power_and_constant(at: _Values, rows: _Values) -> tuple[_Values, _Values, _Values]:
    """Exponent, constant and factor of each row: for a given exponent the others are linear."""
    scaled = at / at.max()
    tried = np.stack([_linear(scaled**b, rows)[0] for b in _EXPONENTS], axis=1)
    # Least errors have a kink where the constant reaches 0: no parabola, but thirds.
    step = _EXPONENTS[1] - _EXPONENTS[0]
    best = _EXPONENTS[np.argmin(tried, axis=1)]
    low, high = best - step, best + step
    for _ in range(_THIRDS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        nearer = _error(scaled, left, rows) < _error(scaled, right, rows)
        low, high = np.where(nearer, low, left), np.where(nearer, right, high)
    exponent = (low + high) / 2
    _, constant, factor = _linear(scaled ** exponent[:, None], rows)
    return exponent, constant, factor / at.max() ** exponent


def _error(scaled: _Values, exponent: _Values, rows: _Values) -> _Values:
    return _linear(scaled ** exponent[:, None], rows)[0]


def _linear(powers: _Values, rows: _Values) -> tuple[_Values, _Values, _Values]:
    """Squared relative error, constant and factor, neither below 0."""
    u, v = 1 / rows, powers / rows
    uu, uv, vv = ((a * b).sum(axis=1) for a, b in ((u, u), (u, v), (v, v)))
    su, sv = u.sum(axis=1), v.sum(axis=1)
    below = uu * vv - uv**2
    with np.errstate(divide="ignore", invalid="ignore"):
        constant = np.where(below > 0, (su * vv - sv * uv) / below, 0.0)
        factor = np.where(below > 0, (sv * uu - su * uv) / below, sv / vv)
    constant, factor = (
        np.where(factor < 0, su / uu, np.where(constant < 0, 0.0, constant)),
        np.where(factor < 0, 0.0, np.where(constant < 0, sv / vv, factor)),
    )
    error = ((1 - constant[:, None] * u - factor[:, None] * v) ** 2).sum(axis=1)
    return error, constant, factor
