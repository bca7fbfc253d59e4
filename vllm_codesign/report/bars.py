"""Stacked bars as the page draws them: a row is a name and segments, each a share of the axis.

They are HTML, not pictures: text in them can be selected and read aloud, and no script is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from vllm_codesign.analysis import client, server
from vllm_codesign.analysis.finding import ms
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.analysis.tables import Scenario
from vllm_codesign.report import colours

_LETTER = 0.75
"""Percent of the axis that a letter of a name takes; one that does not fit is left out."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One colour of a bar. `width` is in percent of the axis."""

    name: str
    value: float
    said: str
    width: float
    colour: str

    @property
    def ink(self) -> str:
        return colours.ink_on(self.colour)

    @property
    def roomy(self) -> bool:
        return self.width >= _LETTER * (len(self.name) + 1)


@dataclass(frozen=True, slots=True)
class Bar:
    """One row."""

    name: str
    segments: tuple[Segment, ...]
    total: str

    @property
    def aloud(self) -> str:
        """What a screen reader says of it."""
        listed = ", ".join(f"{each.name} {each.said}" for each in self.segments)
        return f"{self.name}: {self.total}; {listed}"


@dataclass(frozen=True, slots=True)
class Tick:
    """A number on the axis and where it stands, in percent."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars on one axis from zero."""

    title: str
    unit: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    legend: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """(whose, (name, colour)) of everything that is stacked."""


@dataclass(frozen=True, slots=True)
class Stack:
    """One row before the axis is known: (name, value, colour) from left to right."""

    name: str
    pieces: tuple[tuple[str, float, str], ...]
    total: float


def chart(
    title: str, stacks: Iterable[Stack], legend: Mapping[str, Iterable[tuple[str, str]]]
) -> Chart | None:
    """Bars in ms on a common axis; None where there is none."""
    rows = tuple(stacks)
    longest = max((sum(value for _, value, _ in row.pieces) for row in rows), default=0.0)
    if not longest:
        return None
    return Chart(
        title,
        "ms",
        tuple(
            Bar(
                row.name,
                tuple(
                    Segment(name, value, _said(value, row.total), 100 * value / longest, colour)
                    for name, value, colour in row.pieces
                    if value
                ),
                ms(row.total),
            )
            for row in rows
        ),
        ticks(longest),
        tuple((whose, tuple(names)) for whose, names in legend.items()),
    )


def _said(value: float, total: float) -> str:
    return f"{ms(value)} ({100 * value / total:.1f} %)" if total else ms(value)


def ticks(longest: float, wanted: int = 5) -> tuple[Tick, ...]:
    """Round numbers from 0 to `longest`, some `wanted` of them."""
    raw = longest / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    digits = max(0, -math.floor(math.log10(step)))
    count = math.floor(longest / step + 1e-9)
    return tuple(
        Tick(100 * n * step / longest, f"{n * step:,.{digits}f}") for n in range(count + 1)
    )


def phases(scenarios: tuple[Scenario, ...]) -> Chart | None:
    """Mean ms of a request: what the clients of a scenario saw, and the server below it.

    The clients' bar begins where theirs do, the server's with the first byte: a little later.
    """
    stacks = []
    shown = [s for s in scenarios if s.server.get("total") is not None]
    for scenario in shown:
        if (total := scenario.client.get("total")) is not None:
            pieces = tuple(
                (c.label, _mean(scenario.client[c.key]), colours.CLIENT[c.key])
                for c in client.COLUMNS
                if c.key in colours.CLIENT
            )
            stacks.append(Stack(f"{scenario.name} · client", pieces, total.mean))
        # Busy time lies within other phases.
        pieces = tuple(
            (p.label, _mean(scenario.server[p.key]), colours.PHASES[p.key])
            for p in server.PHASES
            if p.side != "busy" and p.key != "total"
        )
        stacks.append(Stack(f"{scenario.name} · server", pieces, _mean(scenario.server["total"])))
    legend: dict[str, list[tuple[str, str]]] = {}
    if any(s.client.get("total") is not None for s in shown):
        legend["client"] = [
            (c.label, colours.CLIENT[c.key]) for c in client.COLUMNS if c.key in colours.CLIENT
        ]
    for side in ("host", "engine"):
        legend[side] = [(p.label, colours.PHASES[p.key]) for p in server.PHASES if p.side == side]
    legend["neither"] = [("other: no span covers it", colours.PHASES["other"])]
    return chart("Mean time of a request by phase", stacks, legend)


def parts(wholes: Iterable[Stack]) -> Chart | None:
    """What the mean request waited for: each bar a whole, a row for each scenario that is
    accounted for. Scenarios differ by orders of magnitude, what they wait for does not."""
    shown = [each for each in wholes if each.total]
    rows = tuple(
        Bar(
            each.name,
            tuple(
                Segment(part, mean, _said(mean, each.total), 100 * mean / each.total, colour)
                for part, mean, colour in each.pieces
                if mean
            ),
            ms(each.total),
        )
        for each in shown
    )
    if not rows:
        return None
    found = {part: colour for each in shown for part, _, colour in each.pieces}
    present = tuple((part, colour) for part, colour in colours.PARTS.items() if part in found)
    together = tuple(each for each in found.items() if each[0] not in colours.PARTS)
    legend = (("", (*together, *present)),)
    return Chart("Mean time of a request by part", "%", rows, ticks(100.0), legend)


def whole(name: str, means: Mapping[str, float], total: float) -> Stack:
    """The parts of a mean request, in the order of the accounting; what is no part of it first."""
    order = [*(part for part in means if part not in colours.PARTS), *colours.PARTS]
    pieces = tuple(
        (part, means[part], colours.PARTS.get(part, colours.TOGETHER))
        for part in order
        if part in means
    )
    return Stack(name, pieces, total)


def accounted(scenarios: Iterable[Scenario]) -> Iterator[Stack]:
    """For `parts`: of each scenario that is accounted for."""
    for scenario in scenarios:
        if (found := scenario.accounts) is not None:
            means = {part: stat.mean for part, stat in found.parts.items()}
            yield whole(scenario.name, means, found.total.mean)


def _mean(stat: Stat | None) -> float:
    return stat.mean if stat is not None else 0.0
