"""vLLM's own tracing and ours at once, each with its own receiver; what is sent, and what not."""

from __future__ import annotations

import asyncio
import importlib.util
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.checks import check_endings, check_nesting
from tests.support.mixed_load import Sent, make_requests, send_all, text
from tests.support.one_request import Answer, exchange, post
from tests.support.otlp_receiver import GrpcReceiver, HttpReceiver, ReceivedSpan
from tests.support.serving import Traces, serve, wait_until
from vllm_codesign import semconv as S
from vllm_codesign.model.trace import RequestTrace

pytestmark = [pytest.mark.full, pytest.mark.timeout(1500)]

RATIO = 0.4
OWN_SPAN = "llm_request"


@dataclass(frozen=True)
class Setup:
    receiver: type[GrpcReceiver] | type[HttpReceiver]
    env: Mapping[str, str]
    ratio: float
    """Of the traces that no caller has decided about."""


SETUPS = {
    "grpc, default sampler": Setup(GrpcReceiver, {}, 1.0),
    "http/protobuf, ratio": Setup(
        HttpReceiver,
        {
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(RATIO),
        },
        RATIO,
    ),
}


@dataclass
class Run:
    """What was sent to the server, stored here, and received by ours and by vLLM's receiver."""

    setup: Setup
    requests: list[Sent]
    unsampled: list[Answer]
    orphans: set[str]
    """Trace ids of the requests without a `traceparent`."""
    traces: Traces
    ours: dict[int, list[ReceivedSpan]]
    theirs: dict[int, list[ReceivedSpan]]
    counters: dict[str, Any]


@pytest.fixture(scope="module", params=SETUPS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    setup = SETUPS[request.param]
    folder = tmp_path_factory.mktemp("own_tracing")
    with setup.receiver() as ours, GrpcReceiver() as theirs:
        flags = ("--otlp-traces-endpoint", theirs.endpoint)
        with serve(folder, flags, {**ours.environ, **setup.env}) as serving:
            requests = make_requests(serving.model, 60, seed=31)
            asyncio.run(send_all(serving.url, requests))
            unsampled = [
                post(serving.url, "/v1/chat/completions", _chat(serving.model, seed), flags=0)
                for seed in range(4)
            ]
            known = {r.trace_id for r in requests} | {a.trace_id for a in unsampled}
            for seed in range(40):
                code, _ = exchange(
                    f"{serving.url}/v1/chat/completions", _chat(serving.model, seed), {}
                )
                assert code == 200
            last = post(serving.url, "/v1/chat/completions", _chat(serving.model, 99))
            known.add(last.trace_id)
            serving.traces([*known])
        # The server is gone: everything it had to tell is told.
        wait_until(lambda: serving.capture.load().complete, 30, "the capture is complete")
        traces = serving.traces([*known])
        orphans = {
            trace_id
            for trace_id, (trace, *_) in traces.by_id.items()
            if trace_id not in known and trace.root.kind == "server"
        }
        return Run(
            setup,
            requests,
            unsampled,
            orphans,
            traces,
            ours.received.traces(),
            theirs.received.traces(),
            serving.capture.load().counters,
        )


def _chat(model: str, seed: int) -> dict[str, Any]:
    content = text(40, random.Random(seed))
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 4}


def test_both_work(run: Run) -> None:
    check_endings(run.requests, run.traces)
    check_nesting(run.traces)
    names = {span.name for spans in run.theirs.values() for span in spans}
    assert OWN_SPAN in names
    # Each at its own address, although vLLM writes its own into the environment.
    assert not {S.PREFILL.name, S.DECODE.name} & names
    assert OWN_SPAN not in {span.name for spans in run.ours.values() for span in spans}


def test_vllms_span_is_a_child_of_our_server_span(run: Run) -> None:
    for sent in run.requests:
        if sent.expected is not S.Outcome.COMPLETED:
            continue
        root = run.traces.one(sent.trace_id).root
        own = [s for s in run.theirs.get(root.trace_id, []) if s.name == OWN_SPAN]
        assert len(own) == sent.choices, sent.kind
        assert {s.parent_id for s in own} == {root.span_id}


def test_what_is_received_is_what_is_stored(run: Run) -> None:
    for sent in run.requests:
        _compare(run.traces.one(sent.trace_id), run.ours)


def _compare(trace: RequestTrace, received: dict[int, list[ReceivedSpan]]) -> None:
    theirs = {s.span_id: s for s in received.get(trace.trace_id, [])}
    assert set(theirs) == {s.span_id for s in trace.spans}, trace.root.attributes
    for span in trace.spans:
        got = theirs[span.span_id]
        assert (got.name, got.service, got.kind) == (span.name, span.service, span.kind)
        assert (got.start_ns, got.end_ns) == (span.start_ns, span.end_ns)
        assert (got.parent_id, got.status) == (span.parent_id, span.status)
        assert got.attributes == dict(span.attributes), span.name
        assert [(e.name, e.time_ns, dict(e.attributes)) for e in got.events] == [
            (e.name, e.time_ns, dict(e.attributes)) for e in span.events
        ]
        assert [(x.trace_id, x.span_id) for x in got.links] == [
            (x.trace_id, x.span_id) for x in span.links
        ]


def test_what_its_caller_did_not_sample_is_stored_and_not_sent(run: Run) -> None:
    for answer in run.unsampled:
        root = run.traces.one(answer.trace_id).root
        assert root.attributes[S.OUTCOME.key] == S.Outcome.COMPLETED
        assert root.trace_id not in run.ours
        assert root.trace_id not in run.theirs


def test_a_trace_without_a_caller_is_sampled_by_its_id(run: Run) -> None:
    """OpenTelemetry's rule: the lower 64 bits of the id below ratio x 2^64; for both alike."""
    assert len(run.orphans) == 40
    bound = round(run.setup.ratio * (1 << 64))
    wanted = {t for t in (int(o, 16) for o in run.orphans) if t & ((1 << 64) - 1) < bound}
    found = {t for t in run.ours if f"{t:032x}" in run.orphans}
    assert found == wanted
    own = {t for t in run.theirs if f"{t:032x}" in run.orphans}
    assert own == wanted
    print(f"{len(wanted)} of {len(run.orphans)} traces sent at ratio {run.setup.ratio}")


def test_the_sender_says_what_it_sent(run: Run) -> None:
    received = sum(len(spans) for spans in run.ours.values())
    assert run.counters["otlp_sent"] == received
    assert run.counters["otlp_dropped"] == run.counters["otlp_failed"] == 0
