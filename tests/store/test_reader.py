"""A capture reads back as traces and as a table, also while it grows and when it is damaged."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import traces
from vllm_codesign import semconv
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.reader import Reading, connect, read_traces
from vllm_codesign.store.writer import SegmentWriter


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    return traces.write_capture(tmp_path / "it's a store")


def test_traces_come_back_whole(capture: Capture) -> None:
    reading = Reading()
    assert list(read_traces(capture, reading)) == traces.traces()
    assert reading == Reading()


def test_sql(capture: Capture) -> None:
    with connect(capture) as connection:
        rows = connection.execute(
            """SELECT SpanName, count(*), sum(Duration) FROM otel_traces
               WHERE SpanName LIKE 'tokenize.%' AND ResourceAttributes['host.name'] = 'gpu-01'
               GROUP BY 1 ORDER BY 1"""
        ).fetchall()
        assert rows == [
            ("tokenize.encode", 40, 400_000_000),
            ("tokenize.wait", 40, 300_000_000),
        ]
        assert connection.execute("SELECT name, value FROM series").fetchall() == [
            ("hw.gpu.utilization", 0.5)
        ]
        stamp = connection.execute("SELECT min(epoch_ns(Timestamp)) FROM otel_traces").fetchone()
        assert stamp == (traces.EPOCH_NS,)


def test_empty_capture(tmp_path: Path) -> None:
    capture = traces.write_capture(tmp_path, [])
    assert list(read_traces(capture)) == []
    with connect(capture) as connection:
        assert connection.execute("SELECT count(*) FROM otel_traces").fetchone() == (0,)


def test_reads_while_the_server_writes(capture: Capture) -> None:
    more = [traces.completed(traces.trace_id(2, k), traces.EPOCH_NS, 0) for k in range(2)]
    writer = SegmentWriter(capture.traces)
    with connect(capture) as connection:
        before = connection.execute("SELECT count(*) FROM otel_traces").fetchone()
        writer.add(more[0].spans, traces.RESOURCE)
        writer.close()
        (capture.traces / ".000009-x.parquet.tmp").write_bytes(b"being written")
        assert connection.execute("SELECT count(*) FROM otel_traces").fetchone() == before
    assert list(read_traces(capture))[-1] == more[0]


def segments(capture: Capture) -> Iterator[Path]:
    return iter(sorted(capture.traces.glob("*.parquet")))


@pytest.mark.parametrize("keep", [0, 3, 0.5])
def test_torn_segment_is_named_and_left_out(capture: Capture, keep: float) -> None:
    torn = next(segments(capture))
    content = torn.read_bytes()
    torn.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    reading = Reading()
    assert list(read_traces(capture, reading)) == traces.traces()[20:]
    (line,) = reading.unreadable
    assert line.startswith(f"{torn} left out: ")
    assert "\n" not in line
    with connect(capture, Reading()) as connection:
        assert connection.execute("SELECT count(DISTINCT TraceId) FROM otel_traces").fetchone() == (
            20,
        )


def test_segment_damaged_in_the_middle_is_named_and_left_out(capture: Capture) -> None:
    damaged = next(segments(capture))
    content = bytearray(damaged.read_bytes())
    content[200 : len(content) // 3] = b"\xff" * (len(content) // 3 - 200)
    damaged.write_bytes(content)
    reading = Reading()
    assert list(read_traces(capture, reading)) == traces.traces()[20:]
    assert len(reading.unreadable) == 1


def test_strange_parquet_file_is_left_out(capture: Capture) -> None:
    series = next(capture.series.glob("*.parquet"))
    series.rename(capture.traces / "strange.parquet")
    reading = Reading()
    assert len(list(read_traces(capture, reading))) == 40
    assert reading.unreadable[0].endswith("its columns are not those of this version")


def test_requests_of_one_caller_trace_are_told_apart(tmp_path: Path) -> None:
    one, two = traces.traces()[:2]
    shift = {s.span_id: s.span_id + 1_000 for s in two.spans}
    moved = [
        replace(
            s,
            trace_id=one.trace_id,
            span_id=shift[s.span_id],
            parent_id=shift.get(s.parent_id, 0xCA11),
        )
        for s in two.spans
    ]
    second = RequestTrace(moved[0], tuple(moved[1:]))
    capture = traces.write_capture(tmp_path, [one, second])
    assert list(read_traces(capture)) == [one, second]


def test_engine_request_without_a_server_span_is_a_request(tmp_path: Path) -> None:
    one = traces.traces()[0]
    root = replace(one.root, name=semconv.ENGINE_REQUEST.name, kind="internal", parent_id=0xCA11)
    capture = traces.write_capture(tmp_path, [replace(one, root=root)])
    assert [trace.root.name for trace in read_traces(capture)] == ["engine.request"]


def test_spans_without_their_request_are_counted(tmp_path: Path) -> None:
    one, two = traces.traces()[:2]
    capture = traces.write_capture(tmp_path, [one])
    writer = SegmentWriter(capture.traces)
    writer.add(two.children, traces.RESOURCE)
    writer.close()
    reading = Reading()
    assert list(read_traces(capture, reading)) == [one]
    assert reading.rootless_spans == len(two.children)


def test_a_span_written_twice_counts_once(capture: Capture) -> None:
    writer = SegmentWriter(capture.traces)
    writer.add(traces.traces()[0].spans, traces.RESOURCE)
    writer.close()
    assert list(read_traces(capture)) == traces.traces()
