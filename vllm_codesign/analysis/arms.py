"""A run with arms: the study's CPU % in each, how sure the difference is, and the accounting.

The study's figure is what it compared its arms by. The accounting beside it says what the
figure consists of: latency view, shares of the summed wall time of completed requests, over
all servers of the arm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vllm_codesign.analysis import bootstrap, client, tables
from vllm_codesign.analysis.accounts import Accounts
from vllm_codesign.analysis.bootstrap import Interval
from vllm_codesign.analysis.overview import load_results, overview
from vllm_codesign.analysis.stats import Stat, summarize
from vllm_codesign.model.bench import ArmRepeat, ArmsRun, BenchRun
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.semconv import Part

_CPU = "cpu_percent"


@dataclass(frozen=True, slots=True)
class Shares:
    """Of `n` accounted requests' wall time, in percent. None where steps were not recorded."""

    n: int
    exposed: float
    device: float | None
    queue_capacity: float | None
    kv_load: float | None
    unexplained: float


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One scenario in one arm, over all its servers."""

    arm: str
    n: int
    errors: dict[str, int]
    """Failed requests by reason; they are in no figure."""
    cpu: Stat | None
    """The study's CPU %; None where headers tell nothing (no streaming) or nothing answered."""
    delta: Interval | None
    """CPU % less that of the first arm, in percentage points; None for the first arm itself."""
    shares: Shares | None


@dataclass(frozen=True, slots=True)
class Compared:
    """One scenario; arms in the order of the run."""

    scenario: str
    arms: tuple[ArmFigures, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All scenarios, and why figures may be wrong or missing."""

    base: str
    """The arm that the others are compared with."""
    servers: dict[str, int]
    """How many of each arm there are."""
    scenarios: tuple[Compared, ...]
    lossy: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Gathered:
    """One scenario in one arm while servers come in."""

    n: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    cpu: list[list[float]] = field(default_factory=list)
    """CPU % of each request, by server."""
    accounts: list[Accounts] = field(default_factory=list)

    def take(self, bench: BenchRun, scenario: str) -> None:
        rows = [row for row in bench.requests if row.scenario == scenario]
        self.n += len(rows)
        self.errors.update(row.error or "unknown" for row in rows if row.status == "error")
        measured = (client.measure(row) for row in rows)
        self.cpu.append([values[_CPU] for values in measured if _CPU in values])


def compare(run: ArmsRun, folder: Path) -> Comparison:
    """Read the results and captures of all servers of `run`, whose file is in `folder`.

    A server without a readable capture is named in `notes`, and has a part in the study's
    figures alone. Raises CodesignError where results are missing or damaged.
    """
    gathered = {(arm, s.name): _Gathered() for arm in run.arms for s in run.scenarios}
    lossy: list[str] = []
    notes: list[str] = []
    for server in run.servers:
        where = folder / server.folder
        bench = load_results(where)
        for scenario in run.scenarios:
            gathered[server.arm, scenario.name].take(bench, scenario.name)
        try:
            view = overview(_capture(server, where), where)
        except CodesignError as error:
            notes.append(f"{server.folder} is not in the accounting: {error}")
            continue
        lossy.extend(f"{server.folder}: {line}" for line in view.lossy)
        notes.extend(f"{server.folder}: {line}" for line in view.notes)
        for found in view.tables.scenarios:
            if found.accounts is not None and (server.arm, found.name) in gathered:
                gathered[server.arm, found.name].accounts.append(found.accounts)
    base = run.arms[0]
    return Comparison(
        base=base,
        servers={arm: sum(server.arm == arm for server in run.servers) for arm in run.arms},
        scenarios=tuple(
            Compared(
                s.name,
                tuple(
                    _figures(arm, gathered[arm, s.name], gathered[base, s.name], arm == base)
                    for arm in run.arms
                ),
            )
            for s in run.scenarios
        ),
        lossy=tuple(lossy),
        notes=tuple(notes),
    )


def _capture(server: ArmRepeat, where: Path) -> Path:
    """The capture that was noted; the one beside the results if the folder has been moved."""
    if server.capture is None:
        raise CodesignError(
            "the server left no capture; codesign doctor tells why, and so may server.log there"
        )
    noted = Path(server.capture)
    return noted if noted.is_dir() else where


def _figures(arm: str, found: _Gathered, base: _Gathered, is_base: bool) -> ArmFigures:
    return ArmFigures(
        arm=arm,
        n=found.n,
        errors=dict(found.errors.most_common()),
        cpu=summarize([value for server in found.cpu for value in server]),
        delta=None if is_base else bootstrap.difference(base.cpu, found.cpu),
        shares=_shares(found.accounts),
    )


def _shares(accounts: Sequence[Accounts]) -> Shares | None:
    total = _sum((each.total, each.n) for each in accounts)
    if not total:
        return None

    def percent(sums: Iterable[tuple[Stat | None, int]]) -> float:
        return 100 * _sum(sums) / total

    def part(which: Part) -> float:
        return percent((each.parts.get(which.value), each.n) for each in accounts)

    stepwise = all(each.stepwise for each in accounts)
    return Shares(
        n=sum(each.n for each in accounts),
        exposed=percent((each.exposed, each.n) for each in accounts),
        device=percent((each.device, each.n) for each in accounts) if stepwise else None,
        queue_capacity=part(Part.QUEUE_CAPACITY) if stepwise else None,
        kv_load=part(Part.KV_LOAD) if stepwise else None,
        unexplained=part(Part.UNATTRIBUTED),
    )


def _sum(means: Iterable[tuple[Stat | None, int]]) -> float:
    return sum(stat.mean * n for stat, n in means if stat is not None)


def plain(comparison: Comparison) -> dict[str, Any]:
    """JSON-able; shares in percent, deltas in percentage points, an absent figure is null."""
    document = asdict(comparison)
    for scenario, compared in zip(document["scenarios"], comparison.scenarios, strict=True):
        for arm, figures in zip(scenario["arms"], compared.arms, strict=True):
            if figures.delta is not None:
                arm["delta"]["within_noise"] = figures.delta.within_noise
    return {"view": tables.VIEW, "confidence": bootstrap.CONFIDENCE, **document}
