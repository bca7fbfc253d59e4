"""The tables of `codesign analyze` from the rows of the queries.

What the queries cannot say is left out and named: parts up to the first token (their rules look at
every instant of a request, and only parts of the whole are written on its span), the slowest
traces, and whatever is in no span: the host's series and the losses that `run.json` counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vllm_codesign.accounting import EngineTime, Fleet
from vllm_codesign.analysis import server
from vllm_codesign.analysis.accounts import Accounts
from vllm_codesign.analysis.finding import finding
from vllm_codesign.analysis.kv import KV, Eviction, SessionCache, Transfer
from vllm_codesign.analysis.sql.engines import Engine, Rows
from vllm_codesign.analysis.sql.query import Parameters
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.analysis.tables import NO_CLIENT, Joined, Scenario, Tables, build
from vllm_codesign.model.bench import BenchRun
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.semconv import Outcome, Part

_NS_PER_MS = 1e6
NOT_IN_SQL = (
    "not in SQL: parts up to the first token, workers in a connector's calls, the slowest traces; "
    "not in spans: the host's series, and losses counted in run.json"
)


@dataclass(frozen=True, slots=True)
class Decomposition:
    """What the queries answered."""

    tables: Tables
    kv: KV
    fleets: Mapping[str, tuple[tuple[str, Fleet], ...]]
    """By scenario: (`service.instance.id`, its engines), each on the clock of its host."""
    finding: str
    lossy: tuple[str, ...]
    notes: tuple[str, ...]


def decompose(
    engine: Engine, parameters: Parameters, bench: BenchRun | None = None
) -> Decomposition:
    """Run every query.

    `bench` is what the engine's client rows were made of. Raises `CodesignError` where no request
    is in the range.
    """
    (found,) = engine.rows("range", parameters)
    if not found["requests"]:
        raise CodesignError(
            "no request in this range: widen it with --since, or leave --service out"
        )
    wide = parameters.around(found["longest_ns"])

    def rows(name: str) -> Rows:
        return engine.rows(name, wide)

    fleets = _fleets(rows("fleet"), rows("steps_in_windows"))
    phases, parts = _by_scenario(rows("phases")), _by_scenario(rows("parts"))
    worst, queued = _by_scenario(rows("bottlenecks")), _by_scenario(rows("queue"))
    known = {scenario.name: scenario for scenario in build((), bench).scenarios}
    scenarios = [
        _scenario(
            known.get(name) or _without_client(name),
            outcomes,
            phases.get(name, []),
            _accounts(
                outcomes,
                parts.get(name, []),
                worst.get(name, []),
                queued.get(name, []),
                fleets.get(name, ()),
            ),
        )
        for name, outcomes in _by_scenario(rows("outcomes")).items()
    ]
    named = {scenario.name for scenario in scenarios}
    order = [*known, *(name for name in named if name not in known)]
    scenarios += [scenario for name, scenario in known.items() if name not in named]
    scenarios.sort(key=lambda s: (s.name == NO_CLIENT, order.index(s.name)))
    tables = Tables(tuple(scenarios), found["lossy"], found["outlived"])
    notes = [NOT_IN_SQL]
    if found["outlived"]:
        notes.insert(
            0, f"{found['outlived']:,} traces of work that outlived its response are left out"
        )
    return Decomposition(
        tables=tables,
        kv=_kv(rows("transfers"), rows("evictions"), rows("sessions")),
        fleets=fleets,
        finding=finding(tables),
        lossy=(f"{found['lossy']:,} requests ran while records were lost",)
        if found["lossy"]
        else (),
        notes=tuple(notes),
    )


def _by_scenario(rows: Rows) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["scenario"], []).append(row)
    return found


def _without_client(name: str) -> Scenario:
    return Scenario(name, True, 0, {}, 0, {}, {}, {}, None, (), None)


def _scenario(known: Scenario, outcomes: Rows, phases: Rows, accounts: Accounts | None) -> Scenario:
    joined = next((r for r in outcomes if r["outcome"] == Outcome.COMPLETED), None)
    times = _times(phases)
    n = joined["headers"] if joined is not None else 0
    names = {p.span.name if p.span is not None else p.key: p.key for p in server.PHASES}
    means = dict.fromkeys(names.values(), 0.0)
    if n:
        means |= {
            names[r["phase"]]: r["joined_ns"] / n / _NS_PER_MS
            for r in phases
            if r["phase"] in names
        }
    blank = Stat(times["total"].n, 0.0, 0.0, 0.0) if "total" in times else None
    return replace(
        known,
        client=known.client or dict.fromkeys(("cpu_percent", "gpu_percent")),
        untraced=max(0, known.client_rows - sum(r["known"] for r in outcomes)),
        outcomes={
            r["outcome"]: r["requests"] for r in sorted(outcomes, key=lambda r: -r["requests"])
        },
        server={key: times.get(name, blank) for name, key in names.items()},
        joined=Joined(n, joined["headers_ns"] / n / _NS_PER_MS, means) if n and joined else None,
        accounts=accounts,
    )


def _times(rows: Rows, name: str = "phase") -> dict[str, Stat]:
    return {
        row[name]: Stat(
            row["n"],
            row["total_ns"] / row["n"] / _NS_PER_MS,
            row["p50_ns"] / _NS_PER_MS,
            row["p95_ns"] / _NS_PER_MS,
        )
        for row in rows
    }


def _accounts(
    outcomes: Rows,
    parts: Rows,
    worst: Rows,
    queued: Rows,
    fleets: tuple[tuple[str, Fleet], ...],
) -> Accounts | None:
    """None where no completed request says its parts."""
    times = _times(parts, "part")
    if "total" not in times:
        return None
    n = times["total"].n
    zero = Stat(n, 0.0, 0.0, 0.0)
    completed = next(r for r in outcomes if r["outcome"] == Outcome.COMPLETED)
    stepwise = completed["stepwise"] == completed["requests"]
    return Accounts(
        n=n,
        parts={part.value: times[part.value] for part in Part if part.value in times},
        exposed=times.get("host.exposed", zero),
        hidden=times.get("host.hidden", zero),
        total=times["total"],
        device=times.get("device", zero),
        ttft=times.get("ttft"),
        ttft_without_host=None,
        ttft_parts={},
        bottlenecks={row["part"]: row["requests"] for row in worst},
        queued={
            row["reason"]: row["total_ns"] / n / _NS_PER_MS for row in queued if row["total_ns"]
        },
        stepwise=stepwise,
        fleet=fleets[0][1] if stepwise and len(fleets) == 1 else None,
    )


def _fleets(pieces: Rows, windows: Rows) -> dict[str, tuple[tuple[str, Fleet], ...]]:
    found: dict[str, list[tuple[str, Fleet]]] = {}
    by_instance: dict[tuple[str, str], Rows] = {}
    for row in windows:
        by_instance.setdefault((row["scenario"], row["instance"]), []).append(row)
    for (scenario, instance), engines in by_instance.items():
        times = tuple(
            _engine_time(row, [p for p in pieces if _same_engine(p, row)]) for row in engines
        )
        one = Fleet(times, engines[0]["start_ns"], engines[0]["end_ns"])
        found.setdefault(scenario, []).append((instance, one))
    return {scenario: tuple(fleets) for scenario, fleets in found.items()}


def _same_engine(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return all(one[key] == other[key] for key in ("scenario", "instance", "engine"))


def _engine_time(window: Mapping[str, int], pieces: Rows) -> EngineTime:
    return EngineTime(
        window["engine"],
        sum(p["total_ns"] for p in pieces if p["what"] == "busy"),
        {p["what"]: p["total_ns"] for p in pieces if p["what"] != "busy"},
        sum(p["hidden_ns"] for p in pieces),
        window["steps"],
    )


def _kv(transfers: Rows, evictions: Rows, sessions: Rows) -> KV:
    return KV(
        tuple(
            Transfer(
                row["span"],
                row["connector"],
                row["tier"],
                row["transfers"],
                row["tokens"],
                row["bytes"],
                row["total_ns"] / row["ended"] / _NS_PER_MS if row["ended"] else None,
                row["queued_ns"] / row["ended"] / _NS_PER_MS if row["ended"] else None,
                row["recomputed"],
            )
            for row in transfers
        ),
        tuple(
            Eviction(
                row["taker"],
                row["owner"],
                row["blocks"],
                row["times"],
                row["idle_s"] if row["idle_blocks"] else None,
            )
            for row in evictions
        ),
        tuple(
            SessionCache(
                row["session"],
                row["requests"],
                row["prompt_tokens"],
                row["hit_hbm"],
                row["hit_external"],
                row["computed_again"],
                float(row["held_byte_s"]),
            )
            for row in sessions
        ),
        sessions[0]["all_again"] if sessions else 0,
        evictions[0]["all_blocks"] if evictions else 0,
    )
