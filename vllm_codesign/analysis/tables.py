"""The two tables of every scenario: what its clients measured, what the server did.

The view is latency, per request. Rows join by trace id. Only completed requests are
averaged; how many ended otherwise is said beside the figures.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from vllm_codesign import semconv
from vllm_codesign.accounting import Timeline
from vllm_codesign.analysis import client, server
from vllm_codesign.analysis.accounts import LATENCY, Accounts
from vllm_codesign.analysis.accounts import Gathered as GatheredAccounts
from vllm_codesign.analysis.samples import Samples
from vllm_codesign.analysis.stats import Stat, summarize
from vllm_codesign.model.bench import BenchRun, RequestResult
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import RequestTrace

NO_CLIENT = "(no client)"
VIEW = LATENCY
SLOWEST = 5
_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Joined:
    """Means in ms over the requests that both sides know."""

    n: int
    headers_ms: float
    """The client's time to response headers: "HTTP overhead"."""
    server: dict[str, float]
    """By key of `server.PHASES`."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario's figures. Statistics are `None` where no request had the value."""

    name: str
    streaming: bool
    client_rows: int
    client_errors: dict[str, int]
    untraced: int
    """Client rows whose trace is not in the capture."""
    outcomes: dict[str, int]
    """Traces by outcome."""
    client: dict[str, Stat | None]
    server: dict[str, Stat | None]
    joined: Joined | None
    slowest: tuple[RequestTrace, ...]
    accounts: Accounts | None


@dataclass(frozen=True, slots=True)
class Tables:
    """All scenarios, in the order of the run, requests without a client last."""

    scenarios: tuple[Scenario, ...]
    lossy_requests: int
    """Requests that ran while records were lost."""
    outlived: int
    """Traces of work that went on after its response had ended; in no table."""
    differing: int = 0
    """Requests whose accounting is not what the exporter wrote: steps are missing here."""


@dataclass
class _Gathered:
    """What one scenario has while traces come in: a few numbers a request."""

    rows: int = 0
    traced: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    client: dict[str, array[float]] = field(default_factory=dict)
    server: dict[str, array[float]] = field(default_factory=dict)
    joined: int = 0
    headers_ms: float = 0.0
    joined_server: dict[str, float] = field(default_factory=dict)
    slowest: list[tuple[int, int, int, RequestTrace]] = field(default_factory=list)
    accounts: GatheredAccounts = field(default_factory=GatheredAccounts)
    samples: Samples | None = None

    def take_row(self, row: RequestResult) -> None:
        self.rows += 1
        if row.status != "ok":
            self.errors[row.error or f"HTTP {row.http_status}"] += 1
        for key, value in client.measure(row).items():
            self.client.setdefault(key, array("d")).append(value)

    def take_trace(
        self, trace: RequestTrace, row: RequestResult | None, engines: Mapping[int, Timeline]
    ) -> None:
        ended = server.outcome(trace)
        self.accounts.work.take(trace)
        self.outcomes[ended] += 1
        root = trace.root
        heapq.heappush(self.slowest, (root.duration_ns, root.trace_id, root.span_id, trace))
        if len(self.slowest) > SLOWEST:
            heapq.heappop(self.slowest)
        if ended != semconv.Outcome.COMPLETED:
            return
        accounting = self.accounts.take(trace, engines)
        times = {key: ns / _NS_PER_MS for key, ns in server.measure(trace).items()}
        for key, value in times.items():
            self.server.setdefault(key, array("d")).append(value)
        if self.samples is not None:
            where = (row.scenario, row.repeat) if row is not None else (NO_CLIENT, 0)
            self.samples.take_trace(where, trace, times, accounting)
        seen = client.measure(row) if row is not None else {}
        if "http_overhead" in seen:
            self.joined += 1
            self.headers_ms += seen["http_overhead"]
            for key, value in times.items():
                self.joined_server[key] = self.joined_server.get(key, 0.0) + value


def build(
    traces: Iterable[RequestTrace],
    bench: BenchRun | None,
    engines: Mapping[int, Timeline] | None = None,
    steps_sampled: bool = False,
    samples: Samples | None = None,
) -> Tables:
    """The tables of `traces` and, where a client's results are given, of `bench`.

    `engines`: the step timelines by process id of their EngineCore. `steps_sampled`: some of
    them may have been left out since the exporter accounted for the requests. `samples` is
    filled with every completed request's figures on the server.
    """
    engines = engines or {}

    def new() -> _Gathered:
        accounts = GatheredAccounts(steps_sampled=steps_sampled)
        return _Gathered(accounts=accounts, samples=samples)

    gathered: dict[str, _Gathered] = {}
    rows: dict[int, RequestResult] = {}
    if bench is not None:
        for row in bench.requests:
            gathered.setdefault(row.scenario, new()).take_row(row)
            rows[int(row.trace_id, 16)] = row
    waiting = set(rows)
    lossy = outlived = 0
    for trace in traces:
        lossy += trace.root.attributes.get(semconv.LOSSY.key) is True
        if server.outlived(trace):
            outlived += 1
            continue
        known = rows.get(trace.trace_id)
        scenario = gathered.setdefault(known.scenario if known else NO_CLIENT, new())
        if trace.trace_id in waiting:
            waiting.discard(trace.trace_id)
            scenario.traced += 1
        scenario.take_trace(trace, known, engines)
    streaming = {s.name: s.stream for s in bench.scenarios} if bench else {}
    order = [*streaming, *(name for name in gathered if name not in streaming)]
    order.sort(key=lambda name: name == NO_CLIENT)
    return Tables(
        scenarios=tuple(
            _scenario(name, gathered[name], streaming.get(name, True), engines)
            for name in order
            if name in gathered
        ),
        lossy_requests=lossy,
        outlived=outlived,
        differing=sum(found.accounts.differing for found in gathered.values()),
    )


def _scenario(
    name: str, found: _Gathered, streaming: bool, engines: Mapping[int, Timeline]
) -> Scenario:
    joined = None
    if found.joined:
        joined = Joined(
            n=found.joined,
            headers_ms=found.headers_ms / found.joined,
            server={k: v / found.joined for k, v in found.joined_server.items()},
        )
    empty: array[float] = array("d")
    return Scenario(
        name=name,
        streaming=streaming,
        client_rows=found.rows,
        client_errors=dict(found.errors.most_common()),
        untraced=found.rows - found.traced,
        outcomes=dict(found.outcomes.most_common()),
        client={c.key: summarize(found.client.get(c.key, empty)) for c in client.COLUMNS},
        server={p.key: summarize(found.server.get(p.key, empty)) for p in server.PHASES},
        joined=joined,
        slowest=tuple(entry[-1] for entry in sorted(found.slowest, reverse=True)),
        accounts=found.accounts.summary(engines, strip=True),
    )


def only(tables: Tables, name: str) -> Tables:
    """The scenario `name` alone. Raises `CodesignError` where there is none of that name."""
    chosen = tuple(s for s in tables.scenarios if s.name == name)
    if not chosen:
        names = ", ".join(s.name for s in tables.scenarios)
        raise CodesignError(f"no scenario {name!r} here; there is: {names}")
    return replace(tables, scenarios=chosen)
