"""Two captures side by side: the same scenarios, part by part (latency view).

The intervals and what is said of them are those of `analysis.compare`. A difference between two
servers is not yet an effect: servers started alike differ too, and one of each cannot say by how
much; `codesign compare` takes several of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_codesign.analysis import figures
from vllm_codesign.analysis.accounts import LATENCY, Accounts
from vllm_codesign.analysis.compare import Compared, Comparison, compare
from vllm_codesign.analysis.compare_sheet import bracket, remarks, sentence, signed, verdict
from vllm_codesign.analysis.finding import ms, number
from vllm_codesign.analysis.overview import Overview
from vllm_codesign.analysis.sheet import Sheet
from vllm_codesign.analysis.sides import Server, Side
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.analysis.tables import Scenario
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.semconv import Part

_ROWS = {
    "total": figures.SERVER_TOTAL.key,
    "host, exposed": figures.EXPOSED.key,
    "host, hidden": figures.HIDDEN.key,
    "to the first token": figures.FIRST_CHUNK.key,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One scenario in both captures."""

    name: str
    here: Scenario
    there: Scenario
    compared: Compared
    """From there to here."""


@dataclass(frozen=True, slots=True)
class Against:
    """`here` is the capture that was asked for, `there` the one it is held against."""

    here: Overview
    there: Overview
    pairs: tuple[Pair, ...]
    comparison: Comparison

    @property
    def sentence(self) -> str:
        """What changed most in the scenario with the most clients."""
        clients = {**self.there.clients, **self.here.clients}
        return _sentence(max(self.pairs, key=lambda pair: clients.get(pair.name, 0)))

    @property
    def sentences(self) -> list[str]:
        """What changed beyond noise in each scenario, from there to here."""
        return [f"{sentence(pair.compared)}." for pair in self.pairs]

    @property
    def caution(self) -> list[str]:
        """What the intervals know, and what they cannot."""
        return list(remarks(self.comparison))


def against(here: Server, there: Server) -> Against:
    """Raises `CodesignError` where they have no accounted scenario in common."""
    assert here.view is not None
    assert there.view is not None
    ours, theirs = (_accounted(view) for view in (here.view, there.view))
    if not ours.keys() & theirs.keys():
        raise CodesignError(
            "the two captures have no scenario with completed requests in common: "
            f"{here.path} has {_listed(ours)}; {there.path} has {_listed(theirs)}"
        )
    comparison = compare(Side("the second capture", (there,)), Side("this one", (here,)))
    pairs = tuple(
        Pair(found.scenario, ours[found.scenario], theirs[found.scenario], found)
        for found in comparison.scenarios
        if found.scenario in ours and found.scenario in theirs
    )
    return Against(here.view, there.view, pairs, comparison)


def _accounted(view: Overview) -> dict[str, Scenario]:
    return {s.name: s for s in view.tables.scenarios if s.accounts is not None}


def _listed(scenarios: dict[str, Scenario]) -> str:
    return ", ".join(scenarios) or "none"


def sheet(pair: Pair) -> Sheet:
    """Mean ms by part in both, and the difference: `here` less `there`."""
    here, there = _accounts(pair.here), _accounts(pair.there)
    rows: list[tuple[str, Stat | None, Stat | None]] = [
        (part.value, here.parts.get(part.value), there.parts.get(part.value))
        for part in Part
        if part.value in here.parts or part.value in there.parts
    ]
    rows += [
        ("total", here.total, there.total),
        ("host, exposed", here.exposed, there.exposed),
        ("host, hidden", here.hidden, there.hidden),
        ("to the first token", here.ttft, there.ttft),
    ]
    whole = there.total.mean
    return Sheet(
        f"{pair.name}, mean ms ({LATENCY}): {here.n} requests against {there.n}",
        ("part", "this", "against", "difference", "interval", "", "% of the wait there"),
        1,
        tuple(
            (
                label,
                *(number(value) if value is not None else "–" for value in (first, second)),
                *_difference(label, pair.compared, first, second, whole),
            )
            for label, one, other in rows
            if one is not None or other is not None
            for first, second in [_values(label, one, other)]
        ),
    )


def _values(label: str, one: Stat | None, other: Stat | None) -> tuple[float | None, float | None]:
    # A part that no request had is no time; a first token that nobody streamed is not known.
    absent = None if label == "to the first token" else 0.0
    return (one.mean if one else absent, other.mean if other else absent)


def _difference(
    label: str, compared: Compared, first: float | None, second: float | None, whole: float
) -> tuple[str, str, str, str]:
    if first is None or second is None:
        return "–", "–", "–", "–"
    by = first - second
    found = compared.of(_ROWS.get(label, f"part.{label}"))
    said = (bracket(found.interval), verdict(found)) if found is not None else ("–", "–")
    return signed(by), *said, f"{100 * by / whole:+.1f}" if whole else "–"


def _sentence(pair: Pair) -> str:
    here, there = _accounts(pair.here), _accounts(pair.there)
    total = here.total.mean - there.total.mean
    text = (
        f"{pair.name}: a request takes {ms(here.total.mean)} here and {ms(there.total.mean)} there "
        f"({100 * total / there.total.mean:+.1f} %); exposed host time is {_share(here)} of it "
        f"here and {_share(there)} there ({LATENCY})"
    )
    changes = {
        part: _mean(here.parts.get(part)) - _mean(there.parts.get(part))
        for part in {*here.parts, *there.parts}
    }
    part = max(sorted(changes), key=lambda each: abs(changes[each]))
    found = pair.compared.of(f"part.{part}")
    said = verdict(found) if found is not None and found.judged is not None else "no verdict"
    return f"{text}; what differs most is {part}, {signed(changes[part])} ms ({said})."


def _share(found: Accounts) -> str:
    return f"{100 * found.exposed.mean / found.total.mean:.1f} %"


def _mean(stat: Stat | None) -> float:
    return stat.mean if stat is not None else 0.0


def _accounts(scenario: Scenario) -> Accounts:
    assert scenario.accounts is not None
    return scenario.accounts
