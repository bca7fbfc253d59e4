"""Bootstrap intervals: how far a figure would move if the same thing were measured again.

Here and nowhere else, so that every table that says "within noise" means the same.

What is drawn again is what varies. Requests to one server share its memory layout, its
threads' places and its minute of the day, so a difference between two configurations is only
as sure as the servers of each agree: with three repeats or more on either side whole repeats
are drawn with replacement and their requests are kept as they are. Davison and Hinkley
("Bootstrap Methods and their Application", 1997, section 3.8) find that this follows the
variance of such data better than drawing again at both levels. With fewer repeats whole batches
are drawn within each, where a caller knows them and there are five or more: requests that are
sent at once wait for one another and have one fate. Else the requests within each repeat are
drawn. `drawn` says which it was: the last two know nothing of how one server differs from the
next, and no verdict is made of requests alone.

Percentile intervals of few values are too narrow, because the resamples' variance is
(n - 1) / n of what it should be and because the normal's tails are lighter than Student's.
Hesterberg ("What Teachers Should Know About the Bootstrap", The American Statistician 69,
2015) widens them by asking for more extreme percentiles. Three repeats have ten different
resamples and no such percentiles, so the deviations are stretched by the same two factors
instead, with Welch's degrees of freedom, as the sides need not vary alike. How often three
repeats against three then hold the truth is simulated in `tests/analysis/test_bootstrap.py`.

4,000 resamples do not know what happens once in 10,000 times: beyond a confidence of 99 % the
deviations go on as the normal's do, from where the 99 % lie. A p-value is what an interval says,
turned round: the confidence at which it begins to hold 0, from 1.

The sides are not paired: a drift of the machine over an interleaved run widens both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vllm_codesign.analysis.student import normal_quantile, quantile, tail

DRAWS = 4_000
CONFIDENCE = 0.95
ENOUGH_REPEATS = 3
ENOUGH_BATCHES = 5
"""Fewer batches of a server do not tell how they vary: see the simulation in the tests."""

Statistic = Literal["mean", "median"]
Drawn = Literal["repeats", "batches", "requests"]
_Values = npt.NDArray[np.float64]
_Along = Callable[..., _Values]

_STATISTICS: dict[Statistic, _Along] = {"mean": np.mean, "median": np.median}
_TAILS = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
_RESOLVED = 0.01
"""What is outside of the widest interval that percentiles are taken for: twenty draws on each
side of `DRAWS`."""
_BISECTIONS = 24
_ROUNDING = 1e-12
"""Of the values: a difference that sums of floats alone can make."""
_AT_ONCE = 1_000_000
"""Values drawn at a time: 8 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its interval, of 95 % where nothing else is said, in the unit of the values."""

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


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two sides, and how far it would move if both were measured again."""

    value: float
    drawn: Drawn
    """What was drawn again."""
    units: tuple[int, int]
    """How many of them each side has."""
    freedom: float
    """Degrees of freedom of the stretch."""
    deviations: _Values
    """Of each resample from `value`, in ascending order, before the stretch."""

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Of any confidence: one that was corrected for several figures is higher than 95 %."""
        low, high = self._bounds(1 - confidence)
        return Interval(self.value, self.value + low, self.value + high, self.drawn)

    @property
    def p(self) -> float:
        """The largest share left outside by an interval that holds 0.

        So `interval(1 - a)` holds 0 where `a` is less than this, and does not where it is more.
        """
        if self.value == 0.0:
            return 1.0
        low, high = self._bounds(_RESOLVED)
        bound = -low if self.value > 0 else high
        if abs(self.value) >= bound:
            if bound <= 0:
                return 0.0
            # Beyond here bounds grow as Student's quantile does, and need no search.
            reached = quantile(_RESOLVED / 2, self.freedom) * abs(self.value) / bound
            return 2 * tail(reached, self.freedom)
        inside, outside = _RESOLVED, 1.0
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            low, high = self._bounds(middle)
            if self.value + low <= 0 <= self.value + high:
                inside = middle
            else:
                outside = middle
        return inside

    def _bounds(self, outside: float) -> tuple[float, float]:
        """What an interval that leaves out this share adds to the value."""
        half = max(outside, _RESOLVED) / 2
        low, high = _of_sorted(self.deviations, half), _of_sorted(self.deviations, 1 - half)
        if half >= 0.5:
            return low, high
        stretch = quantile(outside / 2, self.freedom) / normal_quantile(half)
        return low * stretch, high * stretch


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
    given = [[[repeat] for repeat in side] for side in (base, other)]
    found = resampled(given[0], given[1], statistic, draws=draws, seed=seed)
    return found.interval() if found is not None else None


def resampled(
    base: Sequence[Sequence[Sequence[float]]],
    other: Sequence[Sequence[Sequence[float]]],
    statistic: Statistic = "mean",
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference | None:
    """The same of values that are given by repeat and batch, with all that can be said of it.

    A repeat whose batches are not known is one batch. None as for `difference`.
    """
    sides = [_repeats(base), _repeats(other)]
    if not all(sides):
        return None
    drawn = _drawable(sides)
    if drawn is None:
        return None
    of = _STATISTICS[statistic]
    generator = np.random.default_rng(seed)
    wholes, deviations, spreads, sizes = [], [], [], []
    for side in sides:
        repeats = [np.concatenate(batches) for batches in side]
        whole = np.concatenate(repeats)
        if drawn == "repeats":
            redrawn = _draw_units([repeats], statistic, generator, draws)
            units = np.array([of(repeat) for repeat in repeats])
        elif drawn == "batches":
            redrawn = _draw_units(side, statistic, generator, draws)
            units = np.array([of(batch) for batches in side for batch in batches])
        else:
            redrawn = _draw_requests(repeats, of, generator, draws)
            units = whole
        size = len(units)
        deviations.append((redrawn - of(whole)) * math.sqrt(size / (size - 1)))
        spreads.append(float(np.var(units, ddof=1)) / size)
        sizes.append(size)
        wholes.append(float(of(whole)))
    value = wholes[1] - wholes[0]
    if abs(value) <= _ROUNDING * max(map(abs, wholes)):
        value = 0.0
    return Difference(
        value=value,
        drawn=drawn,
        units=(sizes[0], sizes[1]),
        freedom=_freedom(spreads, sizes),
        deviations=np.sort(deviations[1] - deviations[0]),
    )


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
    side = [np.asarray(values, dtype=np.float64)]
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
    for given in samples:
        values = np.asarray(given, dtype=np.float64)
        median = float(np.median(values))
        redrawn = _draw_requests([values], np.median, generator, draws)
        stretch = math.sqrt(len(values) / (len(values) - 1)) if len(values) > 1 else 1.0
        stretched = median + (redrawn - median) * stretch
        columns.append(np.maximum(stretched, float(np.min(values)) / 10))
        medians.append(median)
    value = float(figure(np.array([medians]))[0])
    low, high = np.percentile(figure(np.stack(columns, axis=1)), _TAILS)
    return value, float(low), float(high)


def _repeats(given: Sequence[Sequence[Sequence[float]]]) -> list[list[_Values]]:
    """Without batches and repeats that have no value."""
    found = [
        [np.asarray(batch, dtype=np.float64) for batch in repeat if len(batch)] for repeat in given
    ]
    return [batches for batches in found if batches]


def _drawable(sides: Sequence[Sequence[Sequence[_Values]]]) -> Drawn | None:
    if all(len(side) >= ENOUGH_REPEATS for side in sides):
        return "repeats"
    repeats = [batches for side in sides for batches in side]
    if all(len(batches) >= ENOUGH_BATCHES for batches in repeats):
        return "batches"
    return None if any(sum(map(len, each)) < 2 for each in repeats) else "requests"


def _draw_units(
    strata: Sequence[Sequence[_Values]],
    statistic: Statistic,
    generator: np.random.Generator,
    draws: int,
) -> _Values:
    """Of all values, with whole units drawn again within each stratum."""
    picked = [
        np.sort(generator.integers(0, len(units), (draws, len(units))), axis=1) for units in strata
    ]
    if statistic == "mean":
        sums, counts = np.zeros(draws), np.zeros(draws)
        for units, picks in zip(strata, picked, strict=True):
            sums += np.array([unit.sum() for unit in units])[picks].sum(axis=1)
            counts += np.array([len(unit) for unit in units])[picks].sum(axis=1)
        means: _Values = sums / counts
        return means
    # Three repeats have ten different resamples: each is worked out once.
    flat = [unit for units in strata for unit in units]
    begins = np.cumsum([0, *(len(units) for units in strata[:-1])])
    rows = np.concatenate([p + b for p, b in zip(picked, begins, strict=True)], axis=1)
    kinds, which = np.unique(rows, axis=0, return_inverse=True)
    of = _STATISTICS[statistic]
    found = np.array([of(np.concatenate([flat[i] for i in kind])) for kind in kinds])
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


def _of_sorted(values: _Values, share: float) -> float:
    """The percentile as numpy has it, without sorting again."""
    place = share * (len(values) - 1)
    below = min(int(place), len(values) - 2)
    return float(values[below] + (place - below) * (values[below + 1] - values[below]))


def _freedom(spreads: Sequence[float], sizes: Sequence[int]) -> float:
    """Welch's and Satterthwaite's degrees of freedom of a difference."""
    below = sum(
        spread**2 / (size - 1) for spread, size in zip(spreads, sizes, strict=True) if spread
    )
    return sum(spreads) ** 2 / below if below else math.inf
