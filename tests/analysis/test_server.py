"""The server's phases of one request, to the nanosecond."""

from dataclasses import replace

from tests.support import traces
from vllm_codesign import semconv
from vllm_codesign.analysis import server
from vllm_codesign.analysis.server import measure

MS = 1_000_000
ONE = {
    "receive": 1 * MS,
    "template_wait": 0,
    "template_run": 2 * MS,
    "tokenize_wait": 30 * MS,
    "tokenize_run": 10 * MS,
    "frontend_wait": 0,
    "frontend_run": 0,
    "dispatch": 1 * MS,
    "queue": 40_000,
    "prefill": 40 * MS,
    "decode": 100 * MS,
    "return": 500_000,
    "detokenize": 2 * MS,
    "send": 3 * MS,
    "other": 500_000,
    "total": 185_040_000,
}


def test_phases_of_one_request() -> None:
    assert measure(traces.completed(1, traces.EPOCH_NS, wait_ms=30)) == ONE
    assert list(ONE) == [phase.key for phase in server.PHASES]


def test_phases_and_other_sum_to_the_total() -> None:
    for trace in traces.traces():
        times = measure(trace)
        parts = [times[p.key] for p in server.PHASES if p.side in ("host", "engine")]
        assert sum(parts) + times["other"] == times["total"] == trace.root.duration_ns


def test_several_engine_requests_are_a_union() -> None:
    """Two choices side by side take as long as one; the busy time is the sum of both."""
    two = measure(traces.completed(1, traces.EPOCH_NS, wait_ms=30, choices=2))
    assert two == {**ONE, "detokenize": 4 * MS}


def test_aggregates_cover_nothing() -> None:
    trace = traces.completed(1, traces.EPOCH_NS, wait_ms=0)
    bare = tuple(s for s in trace.children if semconv.SPAN_BY_NAME[s.name].aggregate)
    assert measure(replace(trace, children=bare))["other"] == trace.root.duration_ns


def test_spans_beyond_the_root_count_within_it_only() -> None:
    trace = traces.completed(1, traces.EPOCH_NS, wait_ms=0)
    late = replace(trace.root, end_ns=trace.root.start_ns + 20 * MS)
    times = measure(replace(trace, root=late))
    assert (times["prefill"], times["decode"], times["other"]) == (5_960_000, 0, 0)


def test_outcomes() -> None:
    assert server.outcome(traces.ended(1, traces.EPOCH_NS, "aborted")) == "aborted"
    bare = replace(traces.traces()[0].root, attributes={})
    assert server.outcome(replace(traces.traces()[0], root=bare)) == "unknown"


def test_every_span_is_a_phase_or_lies_within_one() -> None:
    """Else the phases of a request would not add up to its total. Stores go on beside them."""
    phases = {phase.span for phase in server.PHASES}
    rest = {kind.name for kind in semconv.SPANS if kind not in phases}
    roots = {semconv.SERVER.name, semconv.ENGINE_REQUEST.name}
    beside = {semconv.KV_STORE.name}
    assert rest - roots - beside == {
        semconv.KV_PREFIX_LOOKUP.name,
        semconv.KV_CONNECTOR_LOOKUP.name,
        semconv.KV_ALLOCATE.name,
        semconv.KV_LOAD.name,
    }


def test_phase_of_several_stretches() -> None:
    trace = traces.completed(1, traces.EPOCH_NS, wait_ms=0)
    encode = trace.named(semconv.TOKENIZE_ENCODE.name)[0]
    half = encode.start_ns + 4 * MS
    split = (
        replace(encode, end_ns=half),
        replace(encode, name=semconv.FRONTEND_WAIT.name, start_ns=half, end_ns=half + MS),
        replace(encode, name=semconv.FRONTEND_RUN.name, start_ns=half + MS),
    )
    children = (*(s for s in trace.children if s is not encode), *split)
    times = measure(replace(trace, children=children))
    assert (times["tokenize_run"], times["frontend_wait"], times["frontend_run"]) == (
        4 * MS,
        1 * MS,
        5 * MS,
    )
    assert times["other"] == 500_000
