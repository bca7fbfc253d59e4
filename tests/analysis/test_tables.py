"""Scenarios join client and server by trace id; nobody is averaged in who does not belong."""

from dataclasses import replace

import pytest

from tests.support import traces
from vllm_codesign import semconv
from vllm_codesign.analysis.finding import NOTHING, finding, number
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.analysis.tables import NO_CLIENT, build
from vllm_codesign.model.trace import RequestTrace, SpanLink


def close(stat: Stat | None, n: int, mean: float, p50: float, p95: float) -> bool:
    assert stat is not None
    return stat.n == n and (stat.mean, stat.p50, stat.p95) == pytest.approx((mean, p50, p95))


def test_two_scenarios_with_exact_values() -> None:
    tables = build(traces.traces(), traces.bench_run())
    single, conc4 = tables.scenarios
    assert (single.name, conc4.name) == ("single", "conc4")
    assert close(conc4.server["tokenize_wait"], 20, 15, 10, 30)
    assert close(conc4.server["tokenize_run"], 20, 10, 10, 10)
    assert close(conc4.server["queue"], 20, 0.04, 0.04, 0.04)
    assert close(conc4.server["total"], 20, 170.04, 165.04, 185.04)
    assert close(conc4.client["http_overhead"], 20, 30, 25, 45)
    assert close(conc4.client["total"], 20, 171.14, 166.14, 186.14)
    assert close(single.server["tokenize_wait"], 20, 0, 0, 0)
    assert (conc4.outcomes, conc4.client_rows, conc4.untraced) == ({"completed": 20}, 20, 0)
    assert conc4.joined is not None
    assert (conc4.joined.n, conc4.joined.headers_ms) == (20, pytest.approx(30))


def test_only_completed_requests_are_averaged() -> None:
    more = [
        traces.ended(traces.trace_id(4, k), traces.EPOCH_NS, outcome)
        for k, outcome in enumerate(("aborted", "rejected", "rejected", "failed"))
    ]
    (scenario,) = build([*traces.traces()[:2], *more], None).scenarios
    assert scenario.name == NO_CLIENT
    assert scenario.outcomes == {"completed": 2, "rejected": 2, "aborted": 1, "failed": 1}
    assert close(scenario.server["total"], 2, 155.04, 155.04, 155.04)
    assert scenario.client["total"] is None


def test_rows_without_trace_and_traces_without_row() -> None:
    bench = traces.bench_run()
    errors = [
        r.model_copy(update={"status": "error", "error": "timeout"}) for r in bench.requests[:2]
    ]
    bench = bench.model_copy(update={"requests": [*errors, *bench.requests[2:]]})
    stranger = traces.completed(traces.trace_id(7, 1), traces.EPOCH_NS, 0)
    single, conc4, rest = build([*traces.traces()[5:], stranger], bench).scenarios
    assert (single.client_rows, single.untraced, single.client_errors) == (20, 5, {"timeout": 2})
    assert single.outcomes == {"completed": 15}
    assert single.client["total"] is not None
    assert single.client["total"].n == 18
    assert (conc4.untraced, rest.name, rest.outcomes) == (0, NO_CLIENT, {"completed": 1})


def test_slowest_five() -> None:
    _, conc4 = build(traces.traces(), traces.bench_run()).scenarios
    assert [t.root.duration_ns / 1e6 for t in conc4.slowest] == pytest.approx([185.04] * 5)
    assert len({t.trace_id for t in conc4.slowest}) == 5


def test_what_outlived_its_response_is_no_request() -> None:
    one = traces.traces()[0]
    root = replace(
        one.root,
        name=semconv.ENGINE_REQUEST.name,
        kind="internal",
        links=(SpanLink(1, 2, {semconv.LINK_REASON.key: "aborted"}),),
    )
    tables = build([RequestTrace(root, ())], None)
    assert (tables.outlived, tables.scenarios) == (1, ())


def test_lossy_requests_are_counted() -> None:
    one = traces.traces()[0]
    root = replace(one.root, attributes={**one.root.attributes, semconv.LOSSY.key: True})
    assert build([replace(one, root=root)], None).lossy_requests == 1


def test_finding_with_clients() -> None:
    assert finding(build(traces.traces(), traces.bench_run())) == (
        "conc4: of the 30.00 ms that the client calls HTTP overhead (time to response headers, "
        "mean of 20), 15.00 ms (50 %) is waiting for the tokenizer (tokenize.wait), 10.00 ms "
        "(33 %) tokenizing (tokenize.encode) and 2.00 ms (7 %) the chat template; 3.00 ms "
        "(10 %) is anything else. The scheduler's own queue (engine.queue) takes 0.040 ms: what "
        "is waited for is the host's tokenizer, not the scheduler."
    )


def test_finding_of_the_server_alone() -> None:
    text = finding(build(traces.traces()[20:], None))
    assert text.startswith(
        "Of the 29.00 ms that receiving, template, tokenizing and dispatch take (mean of 20), "
        "15.00 ms (52 %) is waiting for the tokenizer"
    )
    assert "; receiving is 1.00 ms (3 %) and dispatch 1.00 ms (3 %). The scheduler's" in text


def test_finding_claims_no_more_than_the_figures() -> None:
    assert finding(build([], None)) == NOTHING
    bench = traces.bench_run()
    scenarios = [s.model_copy(update={"stream": False}) for s in bench.scenarios]
    text = finding(build(traces.traces(), bench.model_copy(update={"scenarios": scenarios})))
    assert "HTTP overhead" not in text, "without streaming the headers wait for the engine"
    queued = []
    for trace in traces.traces()[20:]:
        children = [
            replace(s, start_ns=s.start_ns - 60_000_000) if s.name == "engine.queue" else s
            for s in trace.children
        ]
        queued.append(replace(trace, children=tuple(children)))
    text = finding(build(queued, None))
    assert text.endswith("more than tokenizing and the wait for it.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.000"), (0.0404, "0.040"), (9.999, "10.00"), (123.44, "123.4"), (12345.6, "12,346")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
