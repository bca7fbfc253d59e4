"""Bootstrap intervals: how far a figure would move if the same thing were measured again.

Here and nowhere else, so that every table that says "within noise" means the same.

What is drawn again is what varies. Requests to one server share its memory layout, its
threads' places and its minute of the day, so a difference between two configurations is only
as sure as the servers of each agree: with three repeats or more on either side whole repeats
are drawn with replacement and their requests are kept as they are. Davison and Hinkley
("Bootstrap Methods and their Application", 1997, section 3.8) find that this follows the
variance of such data better than drawing again at both levels. With fewer repeats there is
nothing to draw from; then the requests within each repeat are drawn, and `Interval.drawn`
says so: that interval knows nothing of how one server differs from the next.

Percentile intervals of few values are too narrow, because the resamples' variance is
(n - 1) / n of what it should be and because the normal's tails are lighter than Student's.
Hesterberg ("What Teachers Should Know About the Bootstrap", The American Statistician 69,
2015) widens them by asking for more extreme percentiles. Three repeats have ten different
resamples and no such percentiles, so the deviations are stretched by the same two factors
instead, with Welch's degrees of freedom, as the sides need not vary alike. How often three
repeats against three then hold the truth is simulated in `tests/analysis/test_bootstrap.py`.

The sides are not paired: a drift of the machine over an interleaved run widens both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

DRAWS = 4_000
CONFIDENCE = 0.95
ENOUGH_REPEATS = 3

Statistic = Literal["mean", "median"]
Drawn = Literal["repeats", "requests"]
_Values = npt.NDArray[np.float64]
_Along = Callable[..., _Values]

_STATISTICS: dict[Statistic, _Along] = {"mean": np.mean, "median": np.median}
_Z = 1.959963984540054
"""The normal's 97.5th percentile."""
_TAILS = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
_AT_ONCE = 1_000_000
"""Values drawn at a time: 8 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval, in the unit of the values."""

    value: float
    low: float
    high: float
    drawn: Drawn
    """What was drawn again."""

    @property
    def within_noise(self) -> bool | None:
        """Whether the figure may as well be 0; None where requests alone were drawn.

        Two servers that differ as much as the requests to each do are told apart by their
        requests more often than not, whatever their arms.
        """
        if self.drawn == "requests":
            return None
        return self.low <= 0.0 <= self.high


def difference(
    base: Sequence[Sequence[float]],
    other: Sequence[Sequence[float]],
    statistic: Statistic = "mean",
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval | None:
    """`statistic` of all values of `other` less that of `base`; each is given by repeat.

    The same values and seed give the same interval. None where a side has no values, or
    requests are to be drawn and a repeat has one alone: it could only be drawn as itself, which
    does not say how much it varies.
    """
    sides = [_repeats(base), _repeats(other)]
    if not all(sides):
        return None
    of = _STATISTICS[statistic]
    generator = np.random.default_rng(seed)
    drawn: Drawn = "requests"
    if all(len(side) >= ENOUGH_REPEATS for side in sides):
        drawn = "repeats"
    elif any(len(repeat) < 2 for side in sides for repeat in side):
        return None
    deviations, spreads, sizes = [], [], []
    for side in sides:
        whole = np.concatenate(side)
        if drawn == "repeats":
            redrawn = _draw_repeats(side, of, generator, draws)
            units = np.array([of(repeat) for repeat in side])
        else:
            redrawn = _draw_requests(side, of, generator, draws)
            units = whole
        size = len(units)
        deviations.append((redrawn - of(whole)) * math.sqrt(size / (size - 1)))
        spreads.append(float(np.var(units, ddof=1)) / size)
        sizes.append(size)
    value = float(of(np.concatenate(sides[1])) - of(np.concatenate(sides[0])))
    stretch = _student(_freedom(spreads, sizes)) / _Z
    low, high = np.percentile(deviations[1] - deviations[0], _TAILS) * stretch
    return Interval(value, value + float(low), value + float(high), drawn)


def of_one(
    values: Sequence[float],
    statistic: Statistic = "median",
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float, float]:
    """`statistic` of independent values, and Efron's percentile interval of it, not stretched."""
    if not values:
        raise ValueError("no values")
    of = _STATISTICS[statistic]
    side = _repeats([values])
    redrawn = _draw_requests(side, of, np.random.default_rng(seed), draws)
    low, high = np.percentile(redrawn, _TAILS)
    return float(of(side[0])), float(low), float(high)


def of_medians(
    samples: Sequence[Sequence[float]],
    figure: Callable[[_Values], _Values],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A figure of the medians of several groups of independent values, and its interval.

    `figure` takes medians, an array of (rows, groups), and gives one figure a row. Values are
    drawn again within each group. A group's median strays by sqrt(n / (n - 1)) too little among
    its resamples, as above, so the deviations of each are stretched by that before `figure`
    sees them; nothing is drawn below a tenth of the group's smallest value.
    """
    if not samples or not all(len(values) for values in samples):
        raise ValueError("no values")
    generator = np.random.default_rng(seed)
    medians, columns = [], []
    for values in _repeats(samples):
        median = float(np.median(values))
        redrawn = _draw_requests([values], np.median, generator, draws)
        stretch = math.sqrt(len(values) / (len(values) - 1)) if len(values) > 1 else 1.0
        stretched = median + (redrawn - median) * stretch
        columns.append(np.maximum(stretched, float(np.min(values)) / 10))
        medians.append(median)
    value = float(figure(np.array([medians]))[0])
    low, high = np.percentile(figure(np.stack(columns, axis=1)), _TAILS)
    return value, float(low), float(high)


def _repeats(given: Sequence[Sequence[float]]) -> list[_Values]:
    return [np.asarray(values, dtype=np.float64) for values in given if len(values)]


def _draw_repeats(
    side: Sequence[_Values], of: _Along, generator: np.random.Generator, draws: int
) -> _Values:
    picks = np.sort(generator.integers(0, len(side), (draws, len(side))), axis=1)
    # Three repeats have ten different resamples: each is worked out once.
    kinds, which = np.unique(picks, axis=0, return_inverse=True)
    found = np.array([of(np.concatenate([side[i] for i in kind])) for kind in kinds])
    redrawn: _Values = found[which.ravel()]
    return redrawn


def _draw_requests(
    side: Sequence[_Values], of: _Along, generator: np.random.Generator, draws: int
) -> _Values:
    at_once = max(1, _AT_ONCE // sum(map(len, side)))
    found = []
    for begin in range(0, draws, at_once):
        count = min(at_once, draws - begin)
        rows = [values[generator.integers(0, len(values), (count, len(values)))] for values in side]
        found.append(of(np.concatenate(rows, axis=1), axis=1))
    return np.concatenate(found)


def _freedom(spreads: Sequence[float], sizes: Sequence[int]) -> float:
    """Welch's and Satterthwaite's degrees of freedom of a difference."""
    below = sum(
        spread**2 / (size - 1) for spread, size in zip(spreads, sizes, strict=True) if spread
    )
    return sum(spreads) ** 2 / below if below else math.inf


def _student(freedom: float) -> float:
    """Student's 97.5th percentile, from 2 degrees of freedom on right to 1 %.

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
