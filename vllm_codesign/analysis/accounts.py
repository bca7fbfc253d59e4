"""The accounting of a scenario: each request's parts (latency), and the devices' time (throughput).

The two views are never mixed: what a request waits for may be hidden behind others' device
time, and what the device waits for may serve many requests at once.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vllm_codesign import semconv as S
from vllm_codesign.accounting import Fleet, Timeline, Work, account, bottleneck, exposed_ns, fleet
from vllm_codesign.analysis.server_settings import ServerSettings, server_settings
from vllm_codesign.analysis.stats import Stat, summarize
from vllm_codesign.model.step import Accounting
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.semconv import Part
from vllm_codesign.store.capture import RunInfo

LATENCY = "latency, per request"
THROUGHPUT = "throughput, per fleet"
_NS_PER_MS = 1e6

DEVICE_PARTS = (Part.DEVICE_PREFILL, Part.DEVICE_DECODE)
_REASONS = tuple(zip(S.QueueReason, S.QUEUE_REASON_TIMES, strict=True))
_ENOUGH_STEPS = 100
_MOST_S = 1e9
_POOL = (S.TEMPLATE_WAIT.name, S.TOKENIZE_WAIT.name)
QUEUE_PARTS = (Part.QUEUE_CAPACITY, Part.ENGINE_QUEUE)


@dataclass(frozen=True, slots=True)
class Accounts:
    """One scenario's accounting over its completed requests; times in ms."""

    n: int
    parts: dict[str, Stat]
    """By part; those that no request had are left out, and one without it counts as 0."""
    exposed: Stat
    hidden: Stat
    total: Stat
    device: Stat
    ttft: Stat | None
    ttft_without_host: Stat | None
    """Time to the first chunk, and what is left of it without the exposed host time before it."""
    ttft_parts: dict[str, Stat]
    """The same parts, of the time to the first chunk alone; empty without streaming."""
    bottlenecks: dict[str, int]
    """Requests by their largest avoidable part."""
    queued: dict[str, float]
    """Mean ms a request waited in the scheduler's queue, by reason, longest first; the times of
    a request's several engine requests are added up."""
    stepwise: bool
    """False where some were recorded below level `step`: then no device time is known."""
    fleet: Fleet | None
    pool_threads: int | None = None
    """Of an API server's renderer pool; None where no span says it."""
    plans_ahead: bool | None = None
    """Whether EngineCore plans a step while the one before runs; None where too few steps say."""

    def settings(self, run: RunInfo | None) -> ServerSettings:
        """What the server is known to have been started with."""
        return server_settings(run, self.pool_threads, self.plans_ahead)


@dataclass
class Gathered:
    """What one scenario has while traces come in."""

    n: int = 0
    parts: dict[str, array[float]] = field(default_factory=dict)
    exposed: array[float] = field(default_factory=lambda: array("d"))
    hidden: array[float] = field(default_factory=lambda: array("d"))
    total: array[float] = field(default_factory=lambda: array("d"))
    device: array[float] = field(default_factory=lambda: array("d"))
    ttft: array[float] = field(default_factory=lambda: array("d"))
    ttft_without_host: array[float] = field(default_factory=lambda: array("d"))
    ttft_parts: dict[str, array[float]] = field(default_factory=dict)
    bottlenecks: dict[str, int] = field(default_factory=dict)
    queued_ns: Counter[str] = field(default_factory=Counter)
    pool_threads: int | None = None
    stepwise: bool = True
    differing: int = 0
    """Requests whose parts are not those that the exporter wrote."""
    steps_sampled: bool = False
    """Steps may have been sampled away since the exporter had them all: where they are not here,
    what it wrote counts, and nothing that is in the steps alone is said."""
    work: Work = field(default_factory=Work)

    def take(self, trace: RequestTrace, engines: Mapping[int, Timeline]) -> Accounting | None:
        """A completed request, and its account. One that does not say when it began by the
        host's clock, written by an older version, is left out."""
        if not isinstance(trace.root.attributes.get(S.MONOTONIC.key), int):
            return None
        found = account(trace, engines)
        written = recorded(trace)
        differs = written is not None and written != found.parts
        self.n += 1
        self.differing += differs
        if differs and self.steps_sampled:
            found = Accounting(written or {}, _hidden_ns(trace))
        _add(self.parts, found)
        self.exposed.append(exposed_ns(found) / _NS_PER_MS)
        self.hidden.append(found.hidden_ns / _NS_PER_MS)
        self.total.append(found.total_ns / _NS_PER_MS)
        self.device.append(device_ns(found) / _NS_PER_MS)
        if worst := bottleneck(found):
            self.bottlenecks[worst] = self.bottlenecks.get(worst, 0) + 1
        for span in trace.named(S.ENGINE_QUEUE.name):
            for reason, attribute in _REASONS:
                if isinstance(ns := span.attributes.get(attribute.key), int):
                    self.queued_ns[reason.value] += ns
        for span in trace.children:
            if span.name in _POOL and isinstance(n := span.attributes.get(S.POOL_SIZE.key), int):
                self.pool_threads = max(self.pool_threads or 0, n)
        self.stepwise &= trace.root.attributes.get(S.LEVEL.key) == "step"
        first = trace.root.attributes.get(S.RESPONSE_TTFC.key)
        if (
            isinstance(first, float | int)
            and 0 <= first < _MOST_S
            and not (differs and self.steps_sampled)
        ):
            until = round(first * 1e9)
            before = account(trace, engines, until)
            _add(self.ttft_parts, before)
            self.ttft.append(before.total_ns / _NS_PER_MS)
            self.ttft_without_host.append((before.total_ns - exposed_ns(before)) / _NS_PER_MS)
        return found

    def summary(self, engines: Mapping[int, Timeline], strip: bool) -> Accounts | None:
        """None where no request could be accounted for."""
        total, exposed = summarize(self.total), summarize(self.exposed)
        hidden, device = summarize(self.hidden), summarize(self.device)
        if total is None or exposed is None or hidden is None or device is None:
            return None
        return Accounts(
            n=self.n,
            parts=_summaries(self.parts, self.n),
            exposed=exposed,
            hidden=hidden,
            total=total,
            device=device,
            ttft=summarize(self.ttft),
            ttft_without_host=summarize(self.ttft_without_host),
            ttft_parts=_summaries(self.ttft_parts, len(self.ttft)),
            bottlenecks=dict(sorted(self.bottlenecks.items(), key=lambda item: -item[1])),
            queued={r: ns / self.n / _NS_PER_MS for r, ns in self.queued_ns.most_common() if ns},
            stepwise=self.stepwise,
            fleet=fleet(self.work, engines, strip=strip) if self._knows_steps(engines) else None,
            pool_threads=self.pool_threads,
            plans_ahead=_plans_ahead(engines.values()),
        )

    def _knows_steps(self, engines: Mapping[int, Timeline]) -> bool:
        missing = self.steps_sampled and self.differing
        return bool(engines) and self.stepwise and not missing


def _plans_ahead(engines: Iterable[Timeline]) -> bool | None:
    followed, ahead = 0, 0
    for engine in engines:
        followed += engine.followed
        ahead += engine.ahead
    # By most of them: an odd step among thousands is none.
    return 2 * ahead > followed if followed >= _ENOUGH_STEPS else None


def _add(parts: dict[str, array[float]], found: Accounting) -> None:
    for part, ns in found.parts.items():
        parts.setdefault(part, array("d")).append(ns / _NS_PER_MS)


def _summaries(parts: Mapping[str, array[float]], n: int) -> dict[str, Stat]:
    """Of each part that any of the `n` requests had, in the order of the accounting."""
    found = {}
    for part in Part:
        values = parts.get(part.value)
        if values is not None and (stat := summarize([*values, *[0.0] * (n - len(values))])):
            found[part.value] = stat
    return found


def device_ns(accounting: Accounting) -> int:
    """Time in which the device worked for the request."""
    return sum(accounting.parts.get(part.value, 0) for part in DEVICE_PARTS)


def _hidden_ns(trace: RequestTrace) -> int:
    hidden = trace.root.attributes.get(S.HOST_HIDDEN.key, 0)
    return hidden if isinstance(hidden, int) else 0


def recorded(trace: RequestTrace) -> dict[str, int] | None:
    """The parts that the exporter wrote on the root; None where it wrote none."""
    found = {
        part.value: ns
        for part in Part
        if isinstance(ns := trace.root.attributes.get(f"codesign.part.{part.value}_ns"), int)
    }
    return found or None
