"""The verdict: one sentence for each view, or one that says what cannot be said and why.

A verdict names the largest avoidable cause, so it is given only where that cause is known to be
the largest. The rule, for the latency view, in this order:

1. no record of the capture is lost, and no step that its requests were accounted for with;
2. every request was recorded at level `step`: below it host and device cannot be told apart;
3. at least `MIN_REQUESTS` completed requests of the scenario are accounted for;
4. the time that nobody can explain (`unattributed`, `device.gap.other`) is less than that of the
   largest cause;
5. the largest cause takes at least `CLEAR` times what the next one does, and its part is the
   largest avoidable one in at least half of the requests.

The throughput view asks for 1 and 2, `MIN_STEPS` steps, and 4 and 5 of the device's idle time.
Where all that can be avoided stays below `NOTHING` of the time, that is the verdict.

It says which cause is the largest in this run. Whether changing it helps is for two runs to say,
several times each (`codesign bench --arm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_codesign.accounting import Fleet
from vllm_codesign.analysis.accounts import LATENCY, THROUGHPUT, Accounts
from vllm_codesign.analysis.cures import BY_IDLE, CURES, LOOP, POOL, Cure, change
from vllm_codesign.analysis.tables import NO_CLIENT, Scenario, Tables
from vllm_codesign.model.bench import BenchRun
from vllm_codesign.semconv import HOST_PARTS, IdleCause, Part
from vllm_codesign.store.capture import RunInfo

MIN_REQUESTS = 30
MIN_STEPS = 100
CLEAR = 1.5
NOTHING = 0.01


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence about one view; `cause` is None where the data does not carry one."""

    view: str
    sentence: str
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """One cause and its share of the whole, 0 to 1."""

    cure: Cure
    share: float


class _Unsaid(Exception):
    """Why there is no verdict."""


def verdicts(
    tables: Tables, bench: BenchRun | None, run: RunInfo | None, lossy: Sequence[str]
) -> tuple[Verdict, ...]:
    """Latency first, then throughput; of the scenario with the most clients."""
    clients = {s.name: s.concurrency for s in bench.scenarios} if bench is not None else {}
    scenario = subject(tables, clients)
    found = []
    for view, say in ((LATENCY, _latency), (THROUGHPUT, _throughput)):
        try:
            if scenario is None or scenario.accounts is None:
                raise _Unsaid("no completed request is accounted for")
            _whole(tables, lossy)
            if not scenario.accounts.stepwise:
                raise _Unsaid(
                    "requests were recorded below level `step`, where host and device cannot be "
                    "told apart (`codesign level step`)"
                )
            found.append(say(scenario, scenario.accounts, clients.get(scenario.name), run))
        except _Unsaid as why:
            found.append(Verdict(view, f"No verdict ({view}): {why}."))
    return tuple(found)


def subject(tables: Tables, clients: dict[str, int]) -> Scenario | None:
    """The scenario that a verdict is about: the most clients, then the most requests."""
    known = [s for s in tables.scenarios if s.accounts is not None]
    return max(
        known,
        key=lambda s: (
            s.name != NO_CLIENT,
            clients.get(s.name, 0),
            s.accounts.n if s.accounts is not None else 0,
        ),
        default=None,
    )


def shares(scenario: Scenario) -> list[Share]:
    """The avoidable causes of a scenario, the largest first (latency)."""
    found = scenario.accounts
    if found is None or not found.total.mean:
        return []
    return sorted(
        (
            Share(cure, ms / found.total.mean)
            for cure in CURES
            if (ms := _mean_ms(cure, found, scenario))
        ),
        key=lambda each: -each.share,
    )


def _mean_ms(cure: Cure, found: Accounts, scenario: Scenario) -> float:
    stat = found.parts.get(cure.part.value)
    if stat is None:
        return 0.0
    if cure.cause not in (POOL, LOOP):
        return stat.mean
    # The part has the precedence: what overlaps with the device's work is not waited for.
    waits = (scenario.server.get(key) for key in ("template_wait", "tokenize_wait"))
    in_pool = min(stat.mean, sum(wait.mean for wait in waits if wait is not None))
    return in_pool if cure.cause == POOL else stat.mean - in_pool


def _whole(tables: Tables, lossy: Sequence[str]) -> None:
    if lossy:
        raise _Unsaid(f"the capture is lossy, and what is lost may be the cause: {lossy[0]}")
    if tables.differing:
        raise _Unsaid(
            f"{tables.differing:,} requests are accounted for otherwise than when they ended, so "
            "steps are missing from the capture, or another version recorded it"
        )


def _latency(
    scenario: Scenario, found: Accounts, clients: int | None, run: RunInfo | None
) -> Verdict:
    where = _where(scenario, clients)
    if found.n < MIN_REQUESTS:
        raise _Unsaid(
            f"only {found.n} completed requests {where} are accounted for, {MIN_REQUESTS} are asked"
        )
    exposed = found.exposed.mean / found.total.mean
    said = f"Host exposed {_percent(exposed)} of the waiting time {where} ({LATENCY})"
    ranked = [s for s in shares(scenario) if s.cure.part is not Part.GAP_OTHER]
    unexplained = sum(
        stat.mean / found.total.mean
        for part in (Part.UNATTRIBUTED, Part.GAP_OTHER)
        if (stat := found.parts.get(part.value)) is not None
    )
    largest = _largest(ranked, unexplained)
    if largest is None:
        return Verdict(LATENCY, f"{said}; {_NOTHING_TO_GAIN}.")
    count = found.bottlenecks.get(largest.cure.part.value, 0)
    if 2 * count < found.n:
        raise _Unsaid(
            f"{largest.cure.label} takes most on average ({_percent(largest.share)}), and is the "
            f"largest avoidable part of only {count} of {found.n} requests {where}"
        )
    if largest.cure.part in HOST_PARTS:
        points = f"{_points(largest.share)} of these {_points(exposed)} points are"
    else:
        points = f"the largest avoidable part is not the host's: {_percent(largest.share)} is"
    return Verdict(
        LATENCY,
        f"{said}; {points} {largest.cure.label}: "
        f"{change(largest.cure, clients, found.settings(run), found.queued)} can "
        f"remove at most {'those' if largest.cure.part in HOST_PARTS else 'that'}.",
        largest.cure.cause,
    )


def _throughput(
    scenario: Scenario, found: Accounts, clients: int | None, run: RunInfo | None
) -> Verdict:
    where = _where(scenario, clients)
    fleet = found.fleet
    steps = sum(engine.steps for engine in fleet.engines) if fleet is not None else 0
    if fleet is None or not fleet.busy_ns or steps < MIN_STEPS:
        raise _Unsaid(f"only {steps} engine steps {where} are known, {MIN_STEPS} are asked")
    whole = _with_work_ns(fleet)
    ranked = sorted(
        (
            Share(BY_IDLE[IdleCause(cause)], ns / whole)
            for cause, ns in fleet.idle_ns.items()
            if cause not in (IdleCause.NO_WORK, IdleCause.OTHER)
        ),
        key=lambda each: -each.share,
    )
    exposed = fleet.exposed_ns / whole
    said = (
        f"The device stood idle because of the host {_percent(exposed)} of the time while there "
        f"was work {where} ({THROUGHPUT})"
    )
    largest = _largest(ranked, fleet.idle_ns.get(IdleCause.OTHER.value, 0) / whole)
    if largest is None:
        return Verdict(THROUGHPUT, f"{said}; {_NOTHING_TO_GAIN}.")
    label = largest.cure.idle_label or largest.cure.label
    if largest.cure.idle is IdleCause.KV_LOAD:
        points = f"the largest cause of idling is not the host's: {_percent(largest.share)} is"
    else:
        points = f"{_points(largest.share)} of these {_points(exposed)} points are"
    # What is gained by never waiting for this one cause, as Amdahl has it.
    factor = 1 / (1 - largest.share) if largest.share < 1 else float("inf")
    return Verdict(
        THROUGHPUT,
        f"{said}; {points} {label}: "
        f"{change(largest.cure, clients, found.settings(run), found.queued)} can gain at most "
        f"{factor:.2f} x the throughput.",
        str(largest.cure.idle),
    )


_NOTHING_TO_GAIN = (
    f"no avoidable cause reaches {100 * NOTHING:.0f} %, so there is nothing to change"
)


def _largest(ranked: Sequence[Share], unexplained: float) -> Share | None:
    """The cause to name; None where none is worth naming. Shares may be of either view."""
    first = ranked[0] if ranked else None
    if unexplained >= max(first.share if first is not None else 0.0, NOTHING):
        raise _Unsaid(
            f"{_percent(unexplained)} of the time is not explained, more than any cause takes "
            "(`codesign doctor` names hooks that are missing)"
        )
    if first is None or first.share < NOTHING:
        return None
    if len(ranked) > 1 and first.share < CLEAR * ranked[1].share:
        raise _Unsaid(
            f"{first.cure.label} ({_percent(first.share)}) and {ranked[1].cure.label} "
            f"({_percent(ranked[1].share)}) are too close to tell which is the largest"
        )
    return first


def _with_work_ns(fleet: Fleet) -> int:
    idle = sum(ns for cause, ns in fleet.idle_ns.items() if cause != IdleCause.NO_WORK)
    return fleet.busy_ns + idle


def _where(scenario: Scenario, clients: int | None) -> str:
    if clients is None:
        return "of all requests" if scenario.name == NO_CLIENT else f"in {scenario.name}"
    return f"at {clients} client{'s' if clients != 1 else ''}"


def _percent(share: float) -> str:
    return f"{_points(share)} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f}" if 100 * share < 9.95 else f"{100 * share:.0f}"
