"""A capture as a Perfetto trace: counters, clocks, rows and the command."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.accounting.cases import ENGINE, UNIX, member, step, trace
from tests.analysis.perfetto_reading import READINGS, Read, drawn, drawn_with, lane
from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.accounting.step_trace import trace_of
from vllm_codesign.analysis import perfetto
from vllm_codesign.analysis.overview import find
from vllm_codesign.analysis.perfetto_source import Sample, Source
from vllm_codesign.analysis.perfetto_writer import Rows, TraceWriter
from vllm_codesign.analysis.slices import Slices
from vllm_codesign.cli import analyze
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.store.writer import SegmentWriter, SeriesWriter


def test_counters_of_the_steps() -> None:
    steps = [
        replace(step(n, n * 1_000), running=n, waiting=10 - n, tokens=100 * n) for n in (3, 1, 2)
    ]
    read = drawn([trace(0, 9_000)], steps)
    assert read.counters == {
        ("EngineCore", "requests running"): [(1_010, 1), (2_010, 2), (3_010, 3)],
        ("EngineCore", "requests waiting"): [(1_010, 9), (2_010, 8), (3_010, 7)],
        ("EngineCore", "tokens per step"): [(1_010, 100), (2_010, 200), (3_010, 300)],
    }


def test_counters_of_the_series() -> None:
    samples: list[Sample] = [
        (UNIX + 1_000, "hw.gpu.utilization", "1", 0.25, {"hw.id": "0"}),
        (UNIX + 60_200, "hw.gpu.utilization", "1", 0.5, {"hw.id": "0"}),
        (UNIX + 1_000, "hw.gpu.utilization", "1", 0.75, {"hw.id": "1"}),
        (UNIX + 1_000, "codesign.lag", "s", 3.0, {"process.pid": "4711"}),
        (UNIX + 1_000, "codesign.lag", "s", 4.0, {"process.pid": "31"}),
    ]
    read, written = drawn_with([trace(0, 90_000)], samples=samples)
    assert read.counters == {
        ("hw.gpu.utilization (hw.id=0)",): [(1_000, 0.25), (60_000, 0.5)],
        ("hw.gpu.utilization (hw.id=1)",): [(1_000, 0.75)],
        ("API server", "codesign.lag"): [(1_000, 3.0)],
        ("codesign.lag (process.pid=31)",): [(1_000, 4.0)],
    }
    units = {d.name: d.counter.unit_name for d in read.descriptors.values() if d.counter.unit_name}
    assert units["codesign.lag"] == "s"
    assert written.samples == 5


def test_clock_snapshots_are_the_anchors() -> None:
    read = drawn([trace(2_000, 9_000)])
    assert read.clocks == [{3: monotonic, 1: unix} for monotonic, unix in READINGS]


def test_without_anchors_a_request_tells_the_time() -> None:
    file = io.BytesIO()
    perfetto.write(file, Source(lambda: [trace(2_000, 9_000)]))
    assert Read(file.getvalue()).clocks == [{3: 2_000, 1: UNIX + 2_000}]


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=60))
def test_rows_always_nest(pieces: list[tuple[int, int]]) -> None:
    slices = Slices()
    for start, length in pieces:
        slices.add(start, start + length, "x")
    file = io.BytesIO()
    writer = TraceWriter(file)
    rows = Rows(writer, lambda row: writer.track(0, f"row {row}"))
    for piece in slices:
        rows.add(piece.start, piece.end, piece.name, {})
    rows.finish()
    read = Read(file.getvalue())
    assert sorted(s.time for s in read.slices) == sorted((a, a + n) for a, n in pieces)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Two requests and a step in segments, and some samples."""
    made = []
    for number, found in enumerate(traces.traces()[:2]):
        begun = 1_000 + found.root.start_ns - traces.EPOCH_NS
        attributes = {**found.root.attributes, S.MONOTONIC.key: begun}
        made.append(RequestTrace(replace(found.root, attributes=attributes), found.children))
        assert found.trace_id == traces.trace_id(0, number)
    written = traces.write_capture(tmp_path / "capture", made)
    ids = iter(range(900, 1_000))
    served = replace(
        step(1, 1_000 + 15 * traces.MS, members=(member(request="req-x"),)), engine=ENGINE
    )
    spans = trace_of(
        served, "vllm", 0xFEED, lambda: next(ids), lambda t: t - 1_000 + traces.EPOCH_NS
    )
    writer = SegmentWriter(written.traces)
    writer.add(spans.spans, traces.RESOURCE)
    writer.close()
    series = SeriesWriter(written.series)
    for rank, pid in ((0, 31), (1, 32), (1, 33)):
        attributes = {S.RANK.key: rank, "process.pid": pid}
        series.add(traces.EPOCH_NS, "codesign.worker.steps", "{step}", 7.0, attributes)
    series.close()
    return tmp_path


def test_the_command_exports_a_capture(capture: Path) -> None:
    out = capture / "new" / "x.pftrace"
    arguments = [str(capture), "--export", "perfetto", str(out), "--json"]
    result = CliRunner().invoke(analyze.command, arguments, catch_exceptions=False)
    read = Read(out.read_bytes())
    roots = [s for s in read.on(*lane(1)) if s.name.startswith("POST")]
    assert [s.start for s in roots] == [1_000, 1_000 + 1_000 * traces.MS]
    assert read.pid("API server") == 4711, "of run.json"
    assert read.named("worker rank 0", "device rank 0")[0][0] == "model"
    assert read.counters["hw.gpu.utilization (hw.id=0)",] == [(1_000, 0.5)]
    assert read.pid("worker rank 0") == 31, "of the series"
    rank = f"({S.RANK.key}=0)"
    assert read.counters["worker rank 0", f"codesign.worker.steps {rank}"] == [(1_000, 7.0)]
    assert read.clocks == [{3: 1_000, 1: traces.EPOCH_NS}]
    assert json.loads(result.stdout) == {
        "trace": str(out),
        "bytes": out.stat().st_size,
        "requests": 2,
        "left_out": 0,
        "steps": 1,
        "slices": len(read.slices),
        "samples": 7,
        "lossy": [],
    }
    assert "Open it in https://ui.perfetto.dev" in result.stderr
    assert [path.name for path in out.parent.iterdir()] == ["x.pftrace"]


def test_what_is_missing_is_said(capture: Path) -> None:
    run = find(capture)
    run.update(lambda info: info.model_copy(update={"drops": {"worker": 1_200}}))
    torn = run.traces / "torn.parquet"
    torn.write_bytes(b"PAR1 no more")
    out = capture / "x.pftrace"
    arguments = [str(capture), "--export", "perfetto", str(out)]
    result = CliRunner().invoke(analyze.command, arguments, catch_exceptions=False)
    said = result.stderr.replace("\n", " ")
    assert "LOSSY CAPTURE: 1,200 records were lost" in said
    assert said.count(f"LOSSY CAPTURE: {torn} left out") == 1
    assert Read(out.read_bytes()).slices, "the rest is there"


def test_nothing_is_left_where_it_fails(capture: Path) -> None:
    out = capture / "x.pftrace"
    out.write_text("before")
    arguments = [str(capture), "--export", "perfetto", str(out), "--torch-profile"]
    bad = capture / "bad.json"
    bad.write_text(
        '{"baseTimeNanoseconds": 1, "traceEvents": [{"ph": "X", "cat": "kernel", '
        '"name": "k", "pid": 0, "tid": 0, "ts": 1.5, "dur": 1}]}'
    )
    result = CliRunner().invoke(analyze.command, [*arguments, str(bad)])
    assert isinstance(result.exception, CodesignError)
    assert "away from the requests of this capture" in str(result.exception)
    result = CliRunner().invoke(analyze.command, [*arguments, str(capture / "none.json")])
    assert str(result.exception).startswith(f"cannot read {capture / 'none.json'}")
    assert out.read_text() == "before"
    assert not [path for path in capture.iterdir() if path.name.endswith(".tmp")]


def test_a_place_that_cannot_be_written(capture: Path) -> None:
    (capture / "file").write_text("")
    arguments = [str(capture), "--export", "perfetto", str(capture / "file" / "x")]
    result = CliRunner().invoke(analyze.command, arguments)
    assert str(result.exception).startswith(f"cannot write {capture / 'file' / 'x'}: ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--torch-profile", "x.json"], "--torch-profile goes with --export perfetto FILE"),
        (["--export", "chrome", "x"], "is not 'perfetto'"),
    ],
)
def test_wrong_usage(capture: Path, arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(analyze.command, [str(capture), *arguments])
    assert result.exit_code == 2
    assert text in result.output
