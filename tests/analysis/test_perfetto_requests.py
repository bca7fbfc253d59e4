"""Requests in a Perfetto trace: their lanes, rows and the input thread."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.accounting.cases import ENGINE, UNIX, in_engine, span, trace
from tests.analysis.perfetto_reading import drawn, drawn_with, lane, request
from vllm_codesign import semconv as S
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import RequestTrace, SpanEvent


def test_slices_are_the_spans_to_the_nanosecond() -> None:
    decode = replace(
        in_engine(S.DECODE.name, 400, 901),
        events=(SpanEvent(S.EVENT_PREEMPTED, UNIX + 500, {}),),
        attributes={
            S.ENGINE_PID.key: ENGINE,
            S.REQUEST_ID.key: "r1",
            S.DECODE_ITL.key: (1, 2, 3),
            S.DECODE_BATCH_MEAN.key: 2.5,
        },
    )
    read = drawn(
        [
            trace(
                100,
                1_000,
                span(S.HTTP_RECEIVE.name, 100, 130),
                span(S.TOKENIZE_WAIT.name, 130, 130),
                span(S.TOKENIZE_ENCODE.name, 130, 200),
                in_engine(S.PREFILL.name, 300, 400),
                in_engine(S.KV_ALLOCATE.name, 310, 320),
                decode,
            )
        ]
    )
    assert read.named(*lane(1)) == [
        ("POST /v1/completions", 100, 1_000),
        (S.HTTP_RECEIVE.name, 100, 130),
        (S.TOKENIZE_ENCODE.name, 130, 200),
        (S.TOKENIZE_WAIT.name, 130, 130),
        (S.PREFILL.name, 300, 400),
        (S.KV_ALLOCATE.name, 310, 320),
        (S.DECODE.name, 400, 901),
    ]
    assert read.pid("API server") == 4711
    assert read.instants == [(lane(1), S.EVENT_PREEMPTED, 500)]
    root, *_, last = read.on(*lane(1))
    assert root.notes["trace_id"] == f"{1:032x}"
    assert root.notes[S.LEVEL.key] == "step"
    assert last.notes == {
        S.ENGINE_PID.key: ENGINE,
        S.REQUEST_ID.key: "r1",
        S.DECODE_BATCH_MEAN.key: 2.5,
    }, "one number for each token is left out"


def test_concurrent_requests_have_lanes() -> None:
    read = drawn(
        [
            request(101, 300, 4),  # in any order
            request(50, 150, 2),
            request(0, 100, 1),
            request(100, 120, 3),  # begins as the first ends: not in its lane
            request(301, 400, 5),
        ]
    )
    assert [s.time for s in read.on(*lane(1))] == [(0, 100), (101, 300), (301, 400)]
    assert [s.time for s in read.on(*lane(2))] == [(50, 150)]
    assert [s.time for s in read.on(*lane(3))] == [(100, 120)]
    ranks = {d.name: d.sibling_order_rank for d in read.descriptors.values() if d.name}
    assert sorted(ranks, key=ranks.__getitem__) == ["requests 1", "requests 2", "requests 3"]


def test_spans_that_overlap_go_a_row_down() -> None:
    read = drawn(
        [
            trace(
                0,
                100,
                in_engine(S.DECODE.name, 20, 60),
                span(S.DETOKENIZE.name, 30, 70),
                span(S.STREAM_SEND.name, 40, 95),
                span(S.ENGINE_RETURN.name, 60, 80),
            )
        ]
    )
    assert read.named(*lane(1))[1:] == [(S.DECODE.name, 20, 60), (S.ENGINE_RETURN.name, 60, 80)]
    assert read.named(*lane(1, 2)) == [(S.DETOKENIZE.name, 30, 70)]
    assert read.named(*lane(1, 3)) == [(S.STREAM_SEND.name, 40, 95)]


def test_work_that_outlives_its_request_keeps_the_lane() -> None:
    outliving = request(0, 100, 1, span(S.DETOKENIZE.name, 90, 150))
    read = drawn([outliving, request(120, 200, 2), request(151, 200, 3)])
    assert [s.start for s in read.on(*lane(1)) if s.name.startswith("POST")] == [0, 151]
    assert [s.start for s in read.on(*lane(2))] == [120]


def test_offline_requests_are_their_engines() -> None:
    offline = trace(0, 50, in_engine(S.PREFILL.name, 10, 20))
    root = replace(offline.root, kind="internal", name=S.ENGINE_REQUEST.name)
    read = drawn([RequestTrace(root, offline.children)])
    assert [s.name for s in read.on("EngineCore", "requests 1")] == [
        S.ENGINE_REQUEST.name,
        S.PREFILL.name,
    ]
    assert read.pid("EngineCore") == ENGINE


def test_several_api_servers_share_a_process() -> None:
    read = drawn([trace(0, 10)], pids={"api_server": (11, 12)})
    assert read.pid("API servers 11, 12") > 1 << 22, "no process has this id"


def test_what_does_not_say_when_it_began_is_left_out() -> None:
    old = request(0, 10, 5)
    old = RequestTrace(replace(old.root, attributes={}), ())
    read, written = drawn_with([old, request(5, 9, 6)])
    assert [s.time for s in read.slices] == [(5, 9)]
    assert (written.requests, written.left_out) == (1, 1)
    with pytest.raises(CodesignError, match="no request here says when it began"):
        drawn([old])


def test_the_input_thread() -> None:
    dispatch = replace(
        span(S.ENGINE_DISPATCH.name, 10, 60),
        attributes={
            S.REQUEST_ID.key: "r1",
            S.DISPATCH_PREPROCESS.key: 7,
            S.DISPATCH_INPUT_QUEUE.key: 20,
        },
    )
    read = drawn([trace(0, 100, dispatch, in_engine(S.PREFILL.name, 70, 80))])
    (piece,) = read.on("EngineCore", "input thread")
    assert (piece.name, *piece.time) == ("preprocess", 33, 40)
    assert piece.notes == {S.REQUEST_ID.key: "r1"}
