"""What torch.profiler writes, read piece by piece."""

import gzip
import json
import time
from pathlib import Path

import pytest

from vllm_codesign.analysis import torch_profile
from vllm_codesign.analysis.host_clock import HostClock
from vllm_codesign.analysis.torch_profile import read_profile
from vllm_codesign.exporter.clock import read_both
from vllm_codesign.model.errors import CodesignError

BASE = 1_759_276_800_000_000_000
"""kineto's is the first day of a quarter: times after it have 13 digits before the point."""


def event(category: str, name: str, ts: str, dur: str, pid: object = 0, tid: object = 7) -> str:
    # As kineto prints them: three decimals, which json.dumps would not keep.
    return (
        f'{{"ph": "X", "cat": "{category}", "name": "{name}", "pid": {json.dumps(pid)}, '
        f'"tid": {json.dumps(tid)},\n    "ts": {ts}, "dur": {dur}, "args": {{"External id": 3}}}}'
    )


def document(*events: str, head: str = "", tail: str = "") -> str:
    return (
        '\n  {\n    "schemaVersion": 1,\n    "deviceProperties": [\n    ],' + head + "\n"
        f'  "displayTimeUnit": "ms",\n  "baseTimeNanoseconds": {BASE},\n  "traceEvents": [\n  '
        + ",\n  ".join(events)
        + "\n  ],"
        + tail
        + '\n  "traceName": "x"\n}'
    )


KERNEL = event("kernel", "gemm", "4320000000123.457", "10.001")
COPY = event("gpu_memcpy", "Memcpy HtoD", "4320000000140.000", "1.000", tid=8)
NOTE = event("gpu_user_annotation", "gpu_model_runner: forward", "4320000000123.456", "20.000")
OPERATOR = event("cpu_op", "aten::mm", "4320000000100.000", "9.000", pid=4711, tid=4711)
MARK = event("user_annotation", "execute", "4320000000099.000", "50.000", pid=4711, tid=4711)
FLOW = '{"ph": "s", "id": 1, "pid": 0, "tid": 7, "ts": 4320000000123.457, "cat": "ac2g"}'
END = '{"name": "Record Window End", "ph": "i", "s": "g", "pid": "", "tid": "", "ts": 5.000}'


def test_kernels_by_stream_to_the_nanosecond(tmp_path: Path) -> None:
    path = tmp_path / "dp0_pp0_tp1_rank1.123.pt.trace.json"
    path.write_text(document(FLOW, OPERATOR, KERNEL, NOTE, COPY, END))
    profile = read_profile(path)
    assert profile.rank == 1
    assert set(profile.lines) == {("device", 0, 7), ("device", 0, 8), ("annotations", 0, 7)}
    (gemm,) = profile.lines["device", 0, 7]
    start = BASE + 4_320_000_000_123_457
    assert (gemm.start, gemm.end, gemm.name) == (start, start + 10_001, "gemm")
    assert profile.window == (start - 1, BASE + 4_320_000_000_143_456)


def test_without_kernels_the_operators_by_thread(tmp_path: Path) -> None:
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(document(OPERATOR, MARK, END).encode()))
    profile = read_profile(path)
    assert profile.rank is None
    assert [s.name for s in profile.lines["host", 4711, 4711]] == ["execute", "aten::mm"]


def test_the_base_may_come_last(tmp_path: Path) -> None:
    path = tmp_path / "x_rank-3.json"
    events = json.loads(document(KERNEL))["traceEvents"]
    content = {"traceEvents": events, "distributedInfo": {"rank": 5}, "baseTimeNanoseconds": 1_000}
    path.write_text(json.dumps(content))
    profile = read_profile(path)
    assert profile.rank == 5, "what the file says goes before its name"
    assert profile.window[0] == 1_000 + 4_320_000_000_123_457


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_pieces_of_any_size(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_profile, "_CHUNK", chunk)
    path = tmp_path / "trace.json"
    path.write_text(document(KERNEL, COPY, OPERATOR))
    assert [s.name for s in read_profile(path).lines["device", 0, 8]] == ["Memcpy HtoD"]


def test_no_event_at_all(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text('{"baseTimeNanoseconds": 1, "traceEvents": []}')
    with pytest.raises(CodesignError, match="no kernel and no operator"):
        read_profile(path)


BAD = {
    "no base": (
        document(KERNEL).replace("baseTimeNanoseconds", "other"),
        "has no baseTimeNanoseconds, so its times cannot be placed: record it with a newer torch",
    ),
    "no events": ('{"baseTimeNanoseconds": 5}', "has no traceEvents: name the"),
    "empty object": ("{}", "has no traceEvents"),
    "a list": (f"[{KERNEL}]", "is not a whole Chrome trace ('[' where { should be)"),
    "empty": ("", "is not a whole Chrome trace (it ends too early)"),
    "cut off": (document(KERNEL, COPY)[:-60], "is not a whole Chrome trace"),
    "cut off in an event": (document(KERNEL)[:-90], "is not a whole Chrome trace"),
    "no JSON": ("MZ\x00\x01", "is not a whole Chrome trace"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line(tmp_path: Path, case: str) -> None:
    content, text = BAD[case]
    path = tmp_path / "trace.json"
    path.write_text(content)
    with pytest.raises(CodesignError) as caught:
        read_profile(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = gzip.compress(document(*[KERNEL] * 500).encode())
    torn = tmp_path / "torn.json.gz"
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CodesignError, match=r"cannot read .*torn.json.gz: "):
        read_profile(torn)
    garbled = tmp_path / "garbled.json.gz"
    garbled.write_bytes(whole[:12] + b"\xff" * 40)
    with pytest.raises(CodesignError, match=r"cannot read .*garbled.json.gz: "):
        read_profile(garbled)
    with pytest.raises(CodesignError, match=r"cannot read .*none.json: No such file"):
        read_profile(tmp_path / "none.json")


def test_what_the_installed_torch_writes_lands_where_it_ran(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    marks = []
    clock = HostClock([read_both()])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            before = time.monotonic_ns()
            with torch.profiler.record_function("gpu_model_runner: forward"):
                entered = time.monotonic_ns()
                time.sleep(0.01)
                left = time.monotonic_ns()
            marks.append((before, entered, left, time.monotonic_ns()))
    path = tmp_path / "rank0.pt.trace.json.gz"
    profiler.export_chrome_trace(str(path))
    found = [
        (clock.to_monotonic(s.start), clock.to_monotonic(s.end))
        for slices in read_profile(path).lines.values()
        for s in slices
        if s.name == "gpu_model_runner: forward"
    ]
    assert len(found) == 3
    slack = 50_000  # kineto maps the processor's counter to Unix time by two readings
    for (start, end), (before, entered, left, after) in zip(found, marks, strict=True):
        assert before - slack <= start <= entered + slack
        assert left - slack <= end <= after + slack
