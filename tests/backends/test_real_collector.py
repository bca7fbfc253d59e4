"""deploy's Collector files, run by a real Collector: one agent, two gateways, 2,000 requests.

Only addresses, the wait for a decision and the interval of the metrics are laid over the files.
"""

from __future__ import annotations

import random
import re
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult

from tests.backends.programs import AGENT, GATEWAY, Collector, built, otlp_on
from tests.support.otlp_receiver import GrpcReceiver, free_port
from tests.support.serving import REPOSITORY, wait_until
from tests.support.traces import EPOCH_NS, MS, completed, ended
from vllm_codesign import semconv as S
from vllm_codesign.exporter.otlp_spans import Resources, readable_spans
from vllm_codesign.model.trace import RequestTrace, Span, SpanLink

pytestmark = [pytest.mark.backends, pytest.mark.timeout(300)]

REQUESTS, EACH, STEPS = 2_000, 40, 1_000
RATE = 0.02
DECISION_S, FLUSH_S = 4, 1
_BATCH = 1_000


@dataclass(frozen=True)
class Made:
    """What was sent: trace ids by what they are."""

    ids: dict[str, frozenset[int]]
    spans: dict[int, int]
    """By trace id."""


@dataclass(frozen=True)
class Outcome:
    """What came out on both sides."""

    made: Made
    gateways: tuple[dict[int, int], dict[int, int]]
    """Spans that each gateway sent on, by trace id."""
    metrics: str
    while_sending: str
    """The metrics once more, when the last spans had just come in."""
    logs: str
    own: tuple[str, str]
    """The gateways' own metrics."""

    @property
    def kept(self) -> dict[int, int]:
        return self.gateways[0] | self.gateways[1]


def requests() -> dict[str, list[RequestTrace]]:
    """Requests by why they must be kept. Each of the first three has that one reason alone."""
    rng = random.Random(20261125)
    kinds: dict[str, list[RequestTrace]] = {"error": [], "slow": [], "host": [], "rest": []}
    for number in range(REQUESTS):
        trace_id, start = rng.getrandbits(128), EPOCH_NS + number * MS
        kind = [*kinds][number // EACH] if number < 3 * EACH else "rest"
        if kind == "error":
            made = ended(trace_id, start, "failed")
        else:
            made = completed(trace_id, start, 0)
        wall = made.root.duration_ns
        attributes = {
            **made.root.attributes,
            # Some 150 ms: what is not host-bound is a little below a quarter.
            S.HOST_EXPOSED.key: wall // 4 + (1 if kind == "host" else -2),
            S.RESPONSE_TTFC.key: 2.001 if kind == "slow" else 1.999,
        }
        assert kind == "error" or wall > 100 * MS
        kinds[kind].append(replace(made, root=replace(made.root, attributes=attributes)))
    return kinds


def steps(served: list[RequestTrace]) -> list[RequestTrace]:
    rng = random.Random(7)
    made = []
    for number in range(STEPS):
        trace_id, member = rng.getrandbits(128), rng.choice(served).root
        start = EPOCH_NS + number * MS
        root = Span(
            *(S.STEP.name, "vllm-engine", trace_id, 1, 0, start, start + 20 * MS),
            links=(SpanLink(member.trace_id, member.span_id),),
        )
        child = Span(S.SCHEDULE.name, "vllm-engine", trace_id, 2, 1, start, start + MS)
        made.append(RequestTrace(root, (child,)))
    return made


def send(endpoint: str, traces: list[RequestTrace]) -> None:
    """All spans in one shuffle: those of a trace come in different batches."""
    resources = Resources({"service.instance.id": "test"})
    spans = [span for trace in traces for span in readable_spans(trace, resources)]
    random.Random(1).shuffle(spans)
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True)
    for at in range(0, len(spans), _BATCH):
        assert exporter.export(spans[at : at + _BATCH]) is SpanExportResult.SUCCESS
    exporter.shutdown()


def counted(receiver: GrpcReceiver) -> dict[int, int]:
    return dict(Counter(span.trace_id for span in receiver.received.spans))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    built("otelcol")
    folder = tmp_path_factory.mktemp("collector")
    kinds = requests()
    everything = [trace for traces in kinds.values() for trace in traces]
    of_steps = steps(everything)
    kinds["step"] = of_steps
    everything += of_steps
    made = Made(
        {kind: frozenset(t.trace_id for t in traces) for kind, traces in kinds.items()},
        {trace.trace_id: len(trace.spans) for trace in everything},
    )
    with ExitStack() as running:
        behind = [running.enter_context(GrpcReceiver()) for _ in range(2)]
        ports = [free_port(), free_port()]
        gateways = []
        for port, receiver in zip(ports, behind, strict=True):
            wait = f"yaml:processors::tail_sampling::decision_wait: {DECISION_S}s"
            environment = {"TRACES_ENDPOINT": f"127.0.0.1:{receiver.port}"}
            name = f"gateway-{port}"
            over = (GATEWAY, otlp_on(port), wait)
            gateways.append(running.enter_context(Collector(folder, name, over, environment)))
        metrics_port, port = free_port(), free_port()
        hosts = ", ".join(f'"127.0.0.1:{each}"' for each in ports)
        over = (
            otlp_on(port),
            f"yaml:connectors::span_metrics::metrics_flush_interval: {FLUSH_S}s",
            f"yaml:exporters::prometheus::endpoint: 127.0.0.1:{metrics_port}",
            "yaml:exporters::load_balancing::resolver: "
            f"{{dns: null, static: {{hostnames: [{hosts}]}}}}",
        )
        running.enter_context(Collector(folder, "agent", (AGENT, *over), {}))
        send(f"127.0.0.1:{port}", everything)
        # Exemplars are kept for one interval of the metrics.
        while_sending: list[str] = []

        def has_exemplars() -> bool:
            while_sending.append(scrape(metrics_port))
            return EXEMPLAR.search(while_sending[-1]) is not None

        wait_until(has_exemplars, 10, "exemplars")
        must = made.ids["error"] | made.ids["slow"] | made.ids["host"]
        wait_until(lambda: must <= set().union(*map(counted, behind)), 60, "the traces to keep")
        # What is still on its way, or is decided last.
        steady = -1
        while steady != (steady := sum(len(r.received.spans) for r in behind)):
            wait_until(_passed(DECISION_S + 2), 20, "silence")
        first, second = map(counted, behind)
        logs = "".join(path.read_text() for path in sorted(folder.glob("*.log")))
        one, other = (scrape(gateway.telemetry_port) for gateway in gateways)
        metrics = scrape(metrics_port)
        yield Outcome(made, (first, second), metrics, while_sending[-1], logs, (one, other))


EXEMPLAR = re.compile(r'# \{.*trace_id="([0-9a-f]{32})"')


def scrape(port: int) -> str:
    url = f"http://127.0.0.1:{port}/metrics"
    asked = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text"})
    with urllib.request.urlopen(asked, timeout=10) as response:
        found: str = response.read().decode()
    return found


def _passed(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


@pytest.mark.parametrize("config", [AGENT, GATEWAY], ids=lambda path: path.stem)
def test_the_collector_finds_nothing_wrong_with(config: Path) -> None:
    done = subprocess.run(
        [built("otelcol"), "validate", "--config", config], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_option_names_are_current(outcome: Outcome) -> None:
    assert outcome.logs.count("Everything is ready") == 3
    complaints = [line for line in outcome.logs.splitlines() if re.search(r"deprecat|alias", line)]
    assert complaints == []


def test_span_metrics_count_what_sampling_drops(outcome: Outcome) -> None:
    made = outcome.made
    calls = re.findall(r"^traces_span_metrics_calls_total\{([^}]*)\} (\S+)", outcome.metrics, re.M)
    labels = [(dict(re.findall(r'(\w+)="([^"]*)"', text)), float(value)) for text, value in calls]
    assert sum(value for _, value in labels) == sum(made.spans.values())
    servers = [(of, value) for of, value in labels if of["span_kind"] == "SPAN_KIND_SERVER"]
    assert sum(value for _, value in servers) == REQUESTS
    by_outcome: Counter[str] = Counter()
    for of, value in servers:
        by_outcome[of["codesign_outcome"]] += int(value)
        assert (of["service_name"], of["service_instance_id"]) == ("vllm", "test")
    assert by_outcome == {"completed": REQUESTS - EACH, "failed": EACH}
    assert "traces_span_metrics_duration_seconds_bucket" in outcome.metrics
    exemplars = {int(trace_id, 16) for trace_id in EXEMPLAR.findall(outcome.while_sending)}
    assert exemplars
    assert exemplars <= made.spans.keys()


@pytest.mark.parametrize("kind", ["error", "slow", "host"])
def test_every_trace_that_matters_is_kept_whole(outcome: Outcome, kind: str) -> None:
    made = outcome.made
    assert len(made.ids[kind]) == EACH
    for trace_id in made.ids[kind]:
        assert outcome.kept.get(trace_id) == made.spans[trace_id]


@pytest.mark.parametrize("kind", ["rest", "step"])
def test_two_percent_of_the_rest_are_kept_whole(outcome: Outcome, kind: str) -> None:
    made = outcome.made
    kept = made.ids[kind] & outcome.kept.keys()
    assert all(outcome.kept[trace_id] == made.spans[trace_id] for trace_id in kept)
    # Ids are fixed, and the choice is a hash of them: no luck is in this. Four deviations.
    expected = RATE * len(made.ids[kind])
    assert abs(len(kept) - expected) <= 4 * (expected * (1 - RATE)) ** 0.5


def test_both_gateways_work_and_share_no_trace(outcome: Outcome) -> None:
    first, second = outcome.gateways
    assert min(len(first), len(second)) >= 0.25 * len(outcome.kept)
    assert not first.keys() & second.keys()


def test_the_gateways_own_metrics_say_what_they_did(outcome: Outcome) -> None:
    decided = r"^otelcol_processor_tail_sampling_global_count_traces_sampled\{(.*)\} (\S+)"
    counts: Counter[bool] = Counter()
    for metrics in outcome.own:
        for labels, value in re.findall(decided, metrics, re.M):
            counts[re.search(r'sampled="true"', labels) is not None] += int(float(value))
    assert counts[True] == len(outcome.kept)
    assert counts[True] + counts[False] == REQUESTS + STEPS


def test_what_the_page_says_to_watch_is_there_under_that_name(outcome: Outcome) -> None:
    page = (REPOSITORY / "docs" / "backends.md").read_text()
    (name,) = re.findall(r"`(otelcol_\w+dropped_too_early\w*)`", page)
    for metrics in outcome.own:
        (value,) = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)", metrics, re.M)
        assert float(value) == 0
