"""Two captures side by side: the same scenarios, part by part (latency view).

The intervals and what is said of them are those of `analysis.compare`. A difference between two
servers is not yet an effect: servers started alike differ too, and one of each cannot say by how
much; `codesign compare` takes several of each.

Below level `step` device and host cannot be told apart, so a request that waited for a step has
other parts there than it would have at level `step`. Where the two were recorded at different
levels what the engine did is one row, and what needs the steps is left out.
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


IN_ENGINE = "in the engine"
"""Of a request's time, all that lies in EngineCore and on the device, waiting or running: the
parts that depend on the level, together."""
_STEP, _REQUEST, _BOTH = "step", "request", "request and step"


@dataclass(frozen=True, slots=True)
class Pair:
    """One scenario in both captures."""

    name: str
    here: Scenario
    there: Scenario
    compared: Compared
    """From there to here."""

    @property
    def levels(self) -> tuple[str, str]:
        """At which the requests were recorded, here and there."""
        return _level(_accounts(self.here)), _level(_accounts(self.there))

    @property
    def alike(self) -> bool:
        """Whether the same parts mean the same in both."""
        here, there = self.levels
        return here == there != _BOTH

    def means(self, scenario: Scenario) -> dict[str, float]:
        """Mean ms by part of one of the two, by the parts that both have."""
        found = {part: stat.mean for part, stat in _accounts(scenario).parts.items()}
        if self.alike:
            return found
        engine = sum(ms for part, ms in found.items() if _in_engine(part))
        return {IN_ENGINE: engine} | {p: ms for p, ms in found.items() if not _in_engine(p)}


def _in_engine(part: str) -> bool:
    return part.partition(".")[0] in ("device", "engine", "queue")


def _level(found: Accounts) -> str:
    if found.stepwise:
        return _STEP
    stepwise = any(_in_engine(part) and not part.startswith("engine.") for part in found.parts)
    return _BOTH if stepwise else _REQUEST


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
    def levels(self) -> tuple[str, ...]:
        """Why not every part can be compared, a line for each two levels."""
        names: dict[tuple[str, str], list[str]] = {}
        for pair in self.pairs:
            if not pair.alike:
                names.setdefault(pair.levels, []).append(pair.name)
        return tuple(
            f"{', '.join(of)}: recorded at level {here} here and at level {there} there; below "
            "`step` device and host cannot be told apart, so what the engine did is one row "
            f"({IN_ENGINE}) and exposed host time is left out; record both at level step "
            "(`CODESIGN_LEVEL=step`) to compare part by part"
            for (here, there), of in names.items()
        )

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
    ours, theirs = pair.means(pair.here), pair.means(pair.there)
    # A part that no request had is no time.
    rows: list[tuple[str, float | None, float | None]] = [
        (part, ours.get(part, 0.0), theirs.get(part, 0.0))
        for part in (IN_ENGINE, *(each.value for each in Part))
        if part in ours or part in theirs
    ]
    rows.append(("total", here.total.mean, there.total.mean))
    if pair.alike:
        rows.append(("host, exposed", here.exposed.mean, there.exposed.mean))
        rows.append(("host, hidden", here.hidden.mean, there.hidden.mean))
    if here.ttft is not None or there.ttft is not None:
        # What nobody streamed is not known.
        rows.append(("to the first token", _known(here.ttft), _known(there.ttft)))
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
            for label, first, second in rows
        ),
    )


def _known(stat: Stat | None) -> float | None:
    return stat.mean if stat is not None else None


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
        f"({100 * total / there.total.mean:+.1f} %)"
    )
    if pair.alike:
        text += f"; exposed host time is {_share(here)} of it here and {_share(there)} there"
    text += f" ({LATENCY})"
    ours, theirs = pair.means(pair.here), pair.means(pair.there)
    changes = {p: ours.get(p, 0.0) - theirs.get(p, 0.0) for p in {*ours, *theirs}}
    part = max(sorted(changes), key=lambda each: abs(changes[each]))
    found = pair.compared.of(f"part.{part}")
    said = verdict(found) if found is not None and found.judged is not None else "no verdict"
    return f"{text}; what differs most is {part}, {signed(changes[part])} ms ({said})."


def _share(found: Accounts) -> str:
    return f"{100 * found.exposed.mean / found.total.mean:.1f} %"


def _accounts(scenario: Scenario) -> Accounts:
    assert scenario.accounts is not None
    return scenario.accounts
