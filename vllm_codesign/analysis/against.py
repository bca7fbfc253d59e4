"""Two captures side by side: the same scenarios, part by part (latency view).

A difference between two servers is not yet an effect: servers started alike differ too, and one
of each cannot say by how much. `analysis.arms` has the interval, from several servers of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_codesign.analysis.accounts import LATENCY, Accounts
from vllm_codesign.analysis.finding import ms, number
from vllm_codesign.analysis.overview import Overview
from vllm_codesign.analysis.sheet import Sheet
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.analysis.tables import Scenario
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.semconv import Part

CAUTION = (
    "One server of each: servers that are started alike differ too, and this page cannot say by "
    "how much. Whether a difference is more than that, `codesign bench --arm` says, from several "
    "servers of each."
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One scenario in both captures."""

    name: str
    here: Scenario
    there: Scenario


@dataclass(frozen=True, slots=True)
class Against:
    """`here` is the capture that was asked for, `there` the one it is held against."""

    here: Overview
    there: Overview
    pairs: tuple[Pair, ...]
    alone: tuple[str, ...]
    """Scenarios that only one of them has, a line each."""

    @property
    def sentence(self) -> str:
        """What changed most in the scenario with the most clients."""
        clients = {**self.there.clients, **self.here.clients}
        return _sentence(max(self.pairs, key=lambda pair: clients.get(pair.name, 0)))


def against(here: Overview, there: Overview) -> Against:
    """Raises `CodesignError` where they have no accounted scenario in common."""
    ours, theirs = (_accounted(view) for view in (here, there))
    pairs = tuple(Pair(name, ours[name], theirs[name]) for name in ours if name in theirs)
    if not pairs:
        raise CodesignError(
            "the two captures have no scenario with completed requests in common: "
            f"{here.capture.path} has {_listed(ours)}; {there.capture.path} has {_listed(theirs)}"
        )
    alone = [f"{name} is in the first alone" for name in ours if name not in theirs]
    alone += [f"{name} is in the second alone" for name in theirs if name not in ours]
    return Against(here, there, pairs, tuple(alone))


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
        ("part", "this", "against", "difference", "% of the wait there"),
        1,
        tuple(
            (
                label,
                *(number(value) if value is not None else "–" for value in (first, second)),
                *_difference(first, second, whole),
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


def _difference(first: float | None, second: float | None, whole: float) -> tuple[str, str]:
    if first is None or second is None:
        return "–", "–"
    by = first - second
    return f"{'+' if by > 0 else ''}{number(by)}", f"{100 * by / whole:+.1f}" if whole else "–"


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
    by = changes[part]
    return f"{text}; what differs most is {part}, {'+' if by > 0 else ''}{number(by)} ms."


def _share(found: Accounts) -> str:
    return f"{100 * found.exposed.mean / found.total.mean:.1f} %"


def _mean(stat: Stat | None) -> float:
    return stat.mean if stat is not None else 0.0


def _accounts(scenario: Scenario) -> Accounts:
    assert scenario.accounts is not None
    return scenario.accounts
