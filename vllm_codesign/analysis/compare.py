"""Two sides compared: what changed beyond noise, and where the time went that was won or lost.

The headline of a scenario is its total, the client's where both sides have one. Of the headlines of
all scenarios none is wrongly called beyond noise in 95 of 100 comparisons (Holm). What stands below
it (the client's other figures, the accounting, the phases) explains a headline that has moved: then
it is corrected for the number of such figures in that scenario. In scenarios whose headline has
not moved, such a figure has to stand out among all of those of all of them.

Differences are B less A, in ms, of means over requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass

from vllm_codesign.analysis import figures, holm
from vllm_codesign.analysis.bootstrap import Difference, Drawn, Interval, resampled
from vllm_codesign.analysis.comparable import differing_load, remarks_on, same_level
from vllm_codesign.analysis.figures import Figure
from vllm_codesign.analysis.holm import Judged
from vllm_codesign.analysis.sides import Side
from vllm_codesign.model.errors import CodesignError

_Key = tuple[str, str]
"""Scenario and figure."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure of one scenario, in ms."""

    figure: Figure
    a: float
    b: float
    interval: Interval | None
    """Of B less A, at the confidence of `judged`; None where nothing can be drawn again."""
    judged: Judged | None
    """None: no verdict, since requests alone were drawn, or less than for the headline."""

    @property
    def value(self) -> float:
        return self.b - self.a

    @property
    def beyond_noise(self) -> bool:
        return self.judged is not None and self.judged.beyond_noise


@dataclass(frozen=True, slots=True)
class Compared:
    """One scenario on both sides."""

    scenario: str
    n: tuple[int, int]
    """Requests in the headline."""
    drawn: Drawn | None
    """What was drawn again; None: nothing could be."""
    units: tuple[int, int]
    """How many of them there are."""
    headline: Measured
    figures: tuple[Measured, ...]
    """All that both sides have, the headline too, in the order of `figures.FIGURES`."""
    bottlenecks: tuple[tuple[str, int] | None, tuple[str, int] | None]
    """The largest avoidable part of most requests, and of how many."""
    notes: tuple[str, ...]

    def of(self, key: str) -> Measured | None:
        """One of `figures`, by its key."""
        return next((each for each in self.figures if each.figure.key == key), None)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All scenarios that both sides have, and what makes their figures doubtful."""

    a: Side
    b: Side
    scenarios: tuple[Compared, ...]
    lossy: tuple[str, ...]
    """By server."""
    notes: tuple[str, ...]
    """What differs besides what is meant to, and what is left out for it."""
    of_servers: tuple[str, ...]
    """What there is to say of single servers."""


def compare(a: Side, b: Side) -> Comparison:
    """Raises `CodesignError` where they have no scenario in common that can be compared."""
    _distinct(a, b)
    ours, theirs = a.scenarios(), b.scenarios()
    common = [name for name in ours if name in theirs]
    if not common:
        raise CodesignError(
            "the two sides have no scenario with completed requests in common: "
            f"{a.name} has {_listed(ours)}; {b.name} has {_listed(theirs)}"
        )
    refused = {name: line for name in common if (line := differing_load(name, a, b))}
    drawn = {name: _drawn(name, a, b) for name in common if name not in refused}
    for name in [name for name, (means, _) in drawn.items() if not means]:
        refused[name] = f"{name} has no figure that both sides know"
        del drawn[name]
    if not drawn:
        raise CodesignError(
            f"nothing can be compared: {'; '.join(refused.values())}: run both with the same load"
        )
    judged = _judge(
        {name: each for name, (_, each) in drawn.items()},
        {(name, _headline(means)) for name, (means, _) in drawn.items()},
    )
    notes = [*refused.values()]
    notes += [f"{name} is in {a.name} alone" for name in ours if name not in theirs]
    notes += [f"{name} is in {b.name} alone" for name in theirs if name not in ours]
    return Comparison(
        a,
        b,
        tuple(_compared(name, a, b, *drawn[name], judged) for name in drawn),
        tuple(
            f"{server.path}: {line}"
            for each in (a, b)
            for server in each.servers
            if server.view is not None
            for line in server.view.lossy
        ),
        (*remarks_on(a, b), *notes),
        tuple(line for each in (a, b) for line in _notes_of(each)),
    )


def _distinct(a: Side, b: Side) -> None:
    both = {each.identity for each in a.servers} & {each.identity for each in b.servers}
    if both:
        raise CodesignError(
            f"both sides have the server {min(both)}: name two different runs, A and B"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _notes_of(side: Side) -> list[str]:
    lines = []
    for server in side.servers:
        if server.unread is not None:
            lines.append(f"{server.path}: the client's numbers alone: {server.unread}")
        elif server.view is not None:
            lines += [f"{server.path}: {line}" for line in server.view.notes]
    return lines


def _values(side: Side, scenario: str, key: str) -> list[list[list[float]]]:
    """By server and batch."""
    return [
        [list(batch) for batch in server.samples.batches(scenario, key)] for server in side.servers
    ]


def _mean(values: list[list[list[float]]]) -> tuple[float, int]:
    flat = [value for server in values for batch in server for value in batch]
    return sum(flat) / len(flat), len(flat)


def _drawn(
    scenario: str, a: Side, b: Side
) -> tuple[dict[str, tuple[float, float, int, int]], dict[str, Difference]]:
    """Means and numbers of what both sides have, and what can be said of the differences."""
    means, found = {}, {}
    level = same_level(scenario, a, b)
    for figure in figures.FIGURES:
        if not level and figure.kind in ("accounting", "part") and figure not in _ANY_LEVEL:
            continue
        values = [_values(side, scenario, figure.key) for side in (a, b)]
        if not all(any(map(len, side)) for side in values):
            continue
        (first, n_first), (second, n_second) = (_mean(side) for side in values)
        if first == second == 0.0:  # a part that no request had
            continue
        means[figure.key] = (first, second, n_first, n_second)
        if (difference := resampled(values[0], values[1])) is not None:
            found[figure.key] = difference
    return means, found


_ANY_LEVEL = (figures.SERVER_TOTAL, figures.FIRST_CHUNK)
"""What the accounting says alike with steps and without."""


def _headline(keys: Iterable[str]) -> str:
    return next(k for k in (figures.CLIENT_TOTAL.key, figures.SERVER_TOTAL.key, *keys) if k in keys)


def _judge(drawn: Mapping[str, Mapping[str, Difference]], heads: Set[_Key]) -> dict[_Key, Judged]:
    """The rule of this module's head."""
    # A figure that fewer servers know than the headline is no surer than they are.
    units = {name: drawn[name][head].drawn for name, head in heads if head in drawn[name]}
    p_values: dict[_Key, float] = {
        (scenario, key): difference.p
        for scenario, found in drawn.items()
        for key, difference in found.items()
        if difference.drawn == units.get(scenario) != "requests"
    }

    def chosen(wanted: Callable[[_Key], bool]) -> dict[_Key, float]:
        return {key: p for key, p in p_values.items() if wanted(key)}

    judged = holm.judge(chosen(heads.__contains__))
    moved = {scenario for (scenario, _), each in judged.items() if each.beyond_noise}
    for scenario in moved:
        judged |= holm.judge(
            chosen(lambda key, this=scenario: key[0] == this and key not in heads)  # type: ignore[misc]
        )
    return judged | holm.judge(chosen(lambda key: key[0] not in moved and key not in heads))


def _compared(
    scenario: str,
    a: Side,
    b: Side,
    means: Mapping[str, tuple[float, float, int, int]],
    drawn: Mapping[str, Difference],
    judged: Mapping[_Key, Judged],
) -> Compared:
    found = []
    for key, (first, second, _, _) in means.items():
        verdict, difference = judged.get((scenario, key)), drawn.get(key)
        interval = None
        if difference is not None:
            interval = difference.interval(verdict.confidence) if verdict else difference.interval()
        found.append(Measured(figures.BY_KEY[key], first, second, interval, verdict))
    head = _headline(means)
    how = drawn.get(head)
    notes = [
        f"{count} failed in {side.name}: {reason}"
        for side in (a, b)
        for reason, count in side.errors(scenario).most_common()
    ]
    return Compared(
        scenario=scenario,
        n=means[head][2:],
        drawn=how.drawn if how is not None else None,
        units=how.units if how is not None else (0, 0),
        headline=next(each for each in found if each.figure.key == head),
        figures=tuple(found),
        bottlenecks=(a.bottleneck(scenario), b.bottleneck(scenario)),
        notes=tuple(notes),
    )
