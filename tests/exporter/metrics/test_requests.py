"""One request's trace, figure by figure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.exporter.records import (
    SPAN,
    TRACE,
    api_records,
    engine_records,
    returned,
    root_begin,
    root_end,
    text,
    the_trace,
)
from tests.exporter.records import dispatched as dispatched_records
from tests.support.measured import LABELS, Measured, measured
from vllm_codesign import semconv as S
from vllm_codesign.exporter.accountant import accounting_attributes
from vllm_codesign.exporter.metrics.models import MAX_MODELS, OTHER
from vllm_codesign.exporter.metrics.requests import MAX_ERROR_TYPES, RequestMetrics
from vllm_codesign.model.step import Accounting
from vllm_codesign.model.trace import RequestTrace, SpanLink
from vllm_codesign.recorder.layout import Ending, Field, Kind
from vllm_codesign.semconv import metrics as M


@pytest.fixture
def made() -> Measured:
    return measured()


@pytest.fixture
def metrics(made: Measured) -> RequestMetrics:
    return RequestMetrics(made.board, made.histograms)


@pytest.fixture
def trace() -> RequestTrace:
    return the_trace(api_records(), engine_records())


def with_root(trace: RequestTrace, **attributes: object) -> RequestTrace:
    changed = {key.replace("__", "."): value for key, value in attributes.items()}
    root = replace(trace.root, attributes={**trace.root.attributes, **changed})  # type: ignore[dict-item]
    return RequestTrace(root, trace.children)


def test_what_a_request_adds(made: Measured, metrics: RequestMetrics, trace: RequestTrace) -> None:
    metrics.take(trace, kept=True)
    said = made.exported()
    who = {"gen_ai_request_model": "tiny", "gen_ai_operation_name": "chat"}
    assert said.value(M.REQUEST_DURATION, "_count", **who) == 1
    assert said.value(M.REQUEST_DURATION, "_sum", **who) == trace.root.duration_ns / 1e9
    first = trace.root.attributes[S.RESPONSE_TTFC.key]
    assert said.value(M.TIME_TO_FIRST_TOKEN, "_sum", **who) == first
    (decode,) = trace.named(S.DECODE.name)
    assert said.value(M.TIME_PER_OUTPUT_TOKEN, "_sum") == pytest.approx(decode.duration_ns / 3e9)
    assert said.by(M.REQUESTS, "codesign_outcome") == {"completed": 1}
    assert said.by(M.TOKENS_USED, "gen_ai_token_type") == {"input": 64, "output": 4}
    sums = said.by(M.PHASE_DURATION, "codesign_phase", "_sum")
    counts = said.by(M.PHASE_DURATION, "codesign_phase", "_count")
    for name in {span.name for span in trace.children}:
        spans = trace.named(name)
        assert counts[name] == len(spans)
        assert sums[name] == pytest.approx(sum(s.duration_ns for s in spans) / 1e9, rel=1e-12)
    assert set(counts) == {span.name for span in trace.children}
    (queue,) = trace.named(S.ENGINE_QUEUE.name)
    assert said.value(M.QUEUE_TIME) == pytest.approx(queue.duration_ns / 1e9, rel=1e-12)
    assert set(said.by(M.QUEUE_TIME, "codesign_queue_reason")) == {"other", "token_budget"}
    assert said.by(M.KV_TOKENS, "codesign_kv_source") == {
        "hbm": 48,
        "external": 0,
        "computed": 16,
        "computed_again": 0,
    }
    assert said.by(M.KV_BLOCKS, "codesign_kv_operation") == {"allocated": 2, "evicted": 1}


def test_the_exemplars_are_the_request(
    made: Measured, metrics: RequestMetrics, trace: RequestTrace
) -> None:
    metrics.take(trace, kept=True)
    for metric in (M.REQUEST_DURATION, M.TIME_TO_FIRST_TOKEN, M.PHASE_DURATION):
        (ids,) = {tuple(e.labels.items()) for e in made.exported().exemplars(metric)}
        assert dict(ids) == {"trace_id": f"{TRACE:032x}", "span_id": f"{SPAN:016x}"}
    (exemplar,) = made.exported().exemplars(M.REQUEST_DURATION)
    assert exemplar.value == trace.root.duration_ns / 1e9


def test_a_trace_that_is_nowhere_is_no_exemplar(
    made: Measured, metrics: RequestMetrics, trace: RequestTrace
) -> None:
    metrics.take(trace, kept=False)
    assert made.exported().exemplars(M.REQUEST_DURATION) == []
    assert made.exported().value(M.REQUEST_DURATION, "_count") == 1, "it counts all the same"


@pytest.mark.parametrize(("chosen", "count"), [("always_on", 1), ("always_off", 0)])
def test_other_filters(trace: RequestTrace, chosen: str, count: int) -> None:
    made = measured(chosen)
    RequestMetrics(made.board, made.histograms).take(trace, kept=chosen == "always_off")
    assert len(made.exported().exemplars(M.REQUEST_DURATION)) == count


def test_the_accounting_of_completed_requests(
    made: Measured, metrics: RequestMetrics, trace: RequestTrace
) -> None:
    parts = {"device.prefill": 3_000_000, "queue.host": 1_500_000, "frontend.cpu": 500_001}
    of = accounting_attributes(Accounting(parts, hidden_ns=7))
    root = replace(trace.root, attributes={**trace.root.attributes, **of})
    metrics.take(RequestTrace(root, trace.children), kept=True)
    metrics.take(with_root(RequestTrace(root, ()), codesign__outcome="aborted"), kept=True)
    said = made.exported()
    assert said.by(M.PART_TIME, "codesign_part") == pytest.approx(
        {part: ns / 1e9 for part, ns in parts.items()}, rel=1e-12
    )
    assert said.by(M.HOST_TIME, "codesign_exposure") == pytest.approx(
        {"exposed": 0.002000001, "hidden": 7e-9}, rel=1e-12
    )
    assert said.by(M.BOTTLENECKS, "codesign_bottleneck") == {"queue.host": 1}
    assert said.by(M.REQUESTS, "codesign_outcome") == {"completed": 1, "aborted": 1}


def test_what_outlives_its_response_is_no_request(
    made: Measured, metrics: RequestMetrics, trace: RequestTrace
) -> None:
    (decode,) = trace.named(S.DECODE.name)
    attributes = {S.OUTCOME.key: "completed"}
    late = replace(
        trace.root, kind="internal", links=(SpanLink(1, 2),), attributes=attributes, name="x"
    )
    metrics.take(RequestTrace(late, (decode,)), kept=True)
    said = made.exported()
    assert said.value(M.REQUESTS) == said.value(M.REQUEST_DURATION, "_count") == 0
    assert said.value(M.PHASE_DURATION, "_count", gen_ai_request_model="unknown") == 1


def test_a_request_without_http_counts_by_its_phases(
    made: Measured, metrics: RequestMetrics, trace: RequestTrace
) -> None:
    root = replace(trace.root, kind="internal", attributes={S.OUTCOME.key: "completed"})
    metrics.take(RequestTrace(root, trace.children), kept=True)
    said = made.exported()
    assert said.by(M.TOKENS_USED, "gen_ai_token_type") == {"input": 64, "output": 4}
    assert said.by(M.REQUESTS, "gen_ai_request_model") == {"unknown": 1}
    assert said.value(M.REQUEST_DURATION, "_count") == 0


def test_errors_are_on_failures_only_and_few(
    made: Measured, metrics: RequestMetrics, trace: RequestTrace
) -> None:
    metrics.take(trace, kept=True)
    for number in range(MAX_ERROR_TYPES + 5):
        failed = with_root(trace, codesign__outcome="failed", error__type=f"E{number}")
        metrics.take(failed, kept=True)
    counts = made.exported().by(M.REQUEST_DURATION, "error_type", "_count")
    assert (counts.pop(""), counts.pop("_OTHER")) == (1, 5)
    assert counts == {f"E{number}": 1 for number in range(MAX_ERROR_TYPES)}


def asked_for(model: str, *, dispatched: bool, status: int, ending: Ending) -> RequestTrace:
    """A request as the records tell it: whether an engine got it, and how it ended."""
    engine = [*dispatched_records(), *returned(finish=3)] if dispatched else []
    records = [*root_begin(), *engine, *root_end(status=status, ending=ending)]
    asked = text(1, Field.MODEL, model)
    named = [asked if r.kind == Kind.TEXT and r.s == Field.MODEL else r for r in records]
    return the_trace(named, engine_records() if dispatched else [])


@pytest.mark.parametrize(
    ("status", "ending", "outcome"),
    [
        (0, Ending.DISCONNECTED, "aborted"),
        (404, Ending.DISCONNECTED, "aborted"),
        (404, Ending.COMPLETE, "rejected"),
        (500, Ending.COMPLETE, "failed"),
        (0, Ending.RAISED, "failed"),
    ],
)
def test_a_name_that_no_engine_served_takes_nobodys_place(
    made: Measured, metrics: RequestMetrics, status: int, ending: Ending, outcome: str
) -> None:
    for number in range(MAX_MODELS):
        noise = asked_for(f"x{number}", dispatched=False, status=status, ending=ending)
        metrics.take(noise, kept=True)
    served = asked_for("mine", dispatched=True, status=200, ending=Ending.COMPLETE)
    metrics.take(served, kept=True)
    said = made.exported()
    assert said.value(M.REQUESTS, codesign_outcome=outcome) == MAX_MODELS
    assert said.by(M.REQUESTS, "gen_ai_request_model") == {OTHER: MAX_MODELS, "mine": 1}


def test_a_request_that_is_given_up_in_the_engine_names_its_model(
    made: Measured, metrics: RequestMetrics
) -> None:
    gone = asked_for("mine", dispatched=True, status=200, ending=Ending.DISCONNECTED)
    metrics.take(gone, kept=True)
    assert made.exported().by(M.REQUESTS, "gen_ai_request_model") == {"mine": 1}


def test_a_stream_that_only_had_an_error_has_no_first_token(
    made: Measured, metrics: RequestMetrics, trace: RequestTrace
) -> None:
    silent = with_root(trace, codesign__outcome="rejected")
    attributes = {k: v for k, v in silent.root.attributes.items() if "output_tokens" not in k}
    metrics.take(RequestTrace(replace(silent.root, attributes=attributes), ()), kept=True)
    assert made.exported().value(M.TIME_TO_FIRST_TOKEN, "_count") == 0


def test_every_series_has_the_constant_labels_and_no_other_than_declared(
    made: Measured, metrics: RequestMetrics, trace: RequestTrace
) -> None:
    metrics.take(trace, kept=True)
    declared = {M.prometheus_name(m).removesuffix("_total"): m for m in M.METRICS}
    for name, family in made.exported().families.items():
        allowed = {M.prometheus_label(a) for a in declared[name].attributes} | {"le"}
        for sample in family.samples:
            assert LABELS.items() <= sample.labels.items()
            assert set(sample.labels) - set(LABELS) <= allowed, name
