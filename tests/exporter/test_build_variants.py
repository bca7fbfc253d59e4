"""Requests of every kind: several choices, lost records, failures, work that goes on."""

import pytest

from tests.exporter.records import (
    BASE,
    IDENTITY,
    SPAN,
    TRACE,
    UNIX,
    api_records,
    assembled,
    assert_sound,
    at,
    builder,
    dispatched,
    engine_records,
    finished,
    rec,
    returned,
    root_begin,
    root_end,
    scheduled,
    short,
    the_trace,
    traces,
    traces_of,
    us,
)
from vllm_codesign.recorder.layout import Ending, Job, Kind


def test_two_choices_are_two_engine_requests() -> None:
    api = [
        *root_begin(),
        *dispatched(11),
        *dispatched(12, index=1),
        *returned(11),
        *returned(12, last=8_550, finish=1),
        *root_end(),
    ]
    engine = [*scheduled(11), *scheduled(12, at=3_500), finished(11), finished(12)]
    trace = the_trace(api, engine)
    for name in ("engine.dispatch", "engine.queue", "prefill", "decode", "engine.return"):
        spans = trace.named(name)
        assert [s.attributes["codesign.request.index"] for s in spans] == [0, 1], name
    attributes = trace.root.attributes
    assert attributes["gen_ai.usage.input_tokens"] == 64, "the choices share their prompt"
    assert attributes["gen_ai.usage.output_tokens"] == 8
    assert attributes["gen_ai.response.finish_reasons"] == ("length", "stop")
    assert len(trace.named("http.receive")) == 1


def test_a_list_of_prompts_is_counted_in_full() -> None:
    api = [
        *root_begin(),
        *dispatched(11, tokens=64),
        *dispatched(12, tokens=36),
        *returned(11),
        *returned(12),
        *root_end(),
    ]
    engine = [*scheduled(11), *scheduled(12), finished(11), finished(12)]
    attributes = the_trace(api, engine).root.attributes
    assert attributes["gen_ai.usage.input_tokens"] == 100
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 96


def test_an_encode_shared_with_others() -> None:
    api = api_records()
    index = next(i for i, r in enumerate(api) if r.kind == Kind.JOB and r.s == Job.TOKENIZE)
    batch = rec(Kind.JOB_BATCH, 1, 400, 900, a=5)._replace(number=api[index].number + 1)
    trace = the_trace([*api[: index + 1], batch, *api[index + 1 :]], engine_records())
    (encode,) = trace.named("tokenize.encode")
    assert short(encode.attributes) == {"tokens": 64, "batch.size": 5, "batch.duration_ns": 500_000}


def test_preemptions_are_events_of_the_phase_they_fall_into() -> None:
    engine = [
        *engine_records()[:-1],
        rec(Kind.ENG_PREEMPTED, 11, 4_000, a=32),
        rec(Kind.ENG_SCHEDULED, 11, 4_500, 4_600, s=1),
        rec(Kind.ENG_PREEMPTED, 11, 6_000, a=70),
        finished(preemptions=2),
    ]
    trace = the_trace(api_records(), engine)
    (prefill,), (decode,) = trace.named("prefill"), trace.named("decode")
    assert [(e.name, e.time_ns - UNIX, dict(e.attributes)) for e in prefill.events] == [
        ("codesign.preempted", 4_000_000, {"codesign.tokens.lost": 32})
    ]
    assert [e.time_ns - UNIX for e in decode.events] == [6_000_000]
    assert prefill.attributes["codesign.preemptions"] == 1
    assert at(prefill)[0] == 3_000, "first scheduled, not resumed"


@pytest.mark.parametrize(
    ("ending", "status", "engines", "outcome", "error"),
    [
        (Ending.COMPLETE, 200, True, "completed", None),
        (Ending.DISCONNECTED, 200, True, "aborted", None),
        (Ending.COMPLETE | Ending.DISCONNECTED, 200, True, "completed", None),
        (Ending.COMPLETE, 400, False, "rejected", "400"),
        (Ending.COMPLETE, 503, False, "rejected", "503"),
        (Ending.COMPLETE, 500, True, "failed", "500"),
        (Ending.RAISED, 0, True, "failed", "engine"),
        (0, 200, True, "failed", "engine"),
        (Ending.COMPLETE, 200, False, "rejected", "stream"),
    ],
)
def test_outcomes(ending: int, status: int, engines: bool, outcome: str, error: str | None) -> None:
    work = [*dispatched(), *returned()] if engines else []
    engine = engine_records() if engines else []
    trace = the_trace([*root_begin(), *work, *root_end(status=status, ending=ending)], engine)
    attributes = trace.root.attributes
    assert attributes["codesign.outcome"] == outcome
    assert attributes.get("error.type") == error
    assert (trace.root.status == "error") == (outcome == "failed")
    assert attributes.get("http.response.status_code") == (status or None)


def test_an_engine_that_fails_fails_a_response_that_said_200() -> None:
    api = [*root_begin(), *dispatched(), rec(Kind.REQ_FAILED, 11, 6_000), *root_end()]
    trace = the_trace(api, [*scheduled(), finished(finish=4)])
    assert trace.root.attributes["codesign.outcome"] == "failed"


@pytest.mark.parametrize("missing", [int(k) for k in Kind if k != Kind.ROOT_BEGIN])
def test_a_lost_record_costs_what_it_said_and_nothing_else(missing: int) -> None:
    """Whatever is lost, the trace is sound and its root has its ids."""
    api = [r for r in api_records() if r.kind != missing]
    engine = [r for r in engine_records() if r.kind != missing]
    for trace in traces_of(api, engine, final=True):
        assert_sound(trace)
    if missing == Kind.ROOT_PARENT:
        assert traces_of(api, engine, final=True) == []


def test_lossy_is_said() -> None:
    assembler = assembled(api_records(), engine_records())
    assembler.roots[1].lossy = True
    (trace,) = traces(assembler)
    assert trace.root.attributes["codesign.lossy"] is True


def test_what_ends_after_the_response_is_cut_and_linked() -> None:
    """Killed at the end of everything: decode was cut by the response, and goes on."""
    api = [*root_begin(), *dispatched(), *returned(last=9_500), *root_end()]
    first, late = traces_of(api, [*scheduled(), finished(at=9_600)])
    assert_sound(first)
    assert_sound(late)
    (decode,), (rest,) = first.named("decode"), late.named("decode")
    assert (at(decode), at(rest)) == ((5_500, 9_000), (9_000, 9_500))
    assert decode.attributes["codesign.tokens"] == 4
    assert short(rest.attributes) == IDENTITY, "counted once"
    (link,) = late.root.links
    assert (link.trace_id, link.span_id) == (TRACE, SPAN)
    assert link.attributes == {"codesign.link": "outlives the response"}
    assert late.trace_id not in (0, TRACE)
    assert at(late.root) == (9_000, 9_700)
    assert late.root.attributes["codesign.outcome"] == "completed"


def test_wall_time_is_the_anchors() -> None:
    assembler = assembled(api_records(), engine_records())
    made = builder(assembler)
    made.to_unix = lambda t: 3 * UNIX + t - BASE
    (root,) = assembler.complete(us(9_000) + 10**9)
    (trace,) = made.request(root, us(9_000))
    assert trace.root.start_ns - 3 * UNIX == 1
    assert trace.root.duration_ns == us(9_000) - us(0.001)
