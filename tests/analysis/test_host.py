"""The host's figures from a series: computed, shown, and left out where there are none."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from vllm_codesign import semconv
from vllm_codesign.analysis.host import GpuLoad, Host, Load, LoopLag, ProcessLoad, host
from vllm_codesign.cli.host_table import host_table
from vllm_codesign.model.trace import AttributeValue, Span
from vllm_codesign.semconv import Series
from vllm_codesign.store.capture import Capture, RunInfo, create
from vllm_codesign.store.reader import Reading
from vllm_codesign.store.writer import SegmentWriter, SeriesWriter

SECOND = 1_000_000_000
START = 1_760_000_000 * SECOND

API: dict[str, AttributeValue] = {"process.pid": 10, "codesign.process.role": "api_server"}
ENGINE: dict[str, AttributeValue] = {"process.pid": 9, "codesign.process.role": "engine_core"}
GPU: dict[str, AttributeValue] = {
    "hw.id": "GPU-1",
    "hw.name": "AMD Instinct MI300X",
    "hw.type": "gpu",
    "hw.vendor": "AMD",
    "codesign.gpu.index": 3,
}


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    return create(tmp_path, RunInfo(run_id="r", pid=1, started_ns=START))


def write(
    capture: Capture, *samples: tuple[float, Series, float, dict[str, AttributeValue]]
) -> None:
    writer = SeriesWriter(capture.series)
    for at_s, series, value, attributes in samples:
        at = START + round(at_s * SECOND)
        writer.add(at, series.name, series.unit, value, attributes)
    writer.close()


def request(capture: Capture, start_s: float, end_s: float) -> None:
    writer = SegmentWriter(capture.traces)
    start, end = (START + round(at * SECOND) for at in (start_s, end_s))
    span = Span("POST /v1/completions", "vllm", 1, 2, 0, start, end, kind="server")
    writer.add([span], {})
    writer.close()


def everything(capture: Capture) -> None:
    lag, gpu = semconv.EVENT_LOOP_LAG, {**GPU, "hw.gpu.task": "general"}
    switches = semconv.PROCESS_CONTEXT_SWITCHES
    voluntary = {**API, "process.context_switch.type": "voluntary"}
    involuntary = {**API, "process.context_switch.type": "involuntary"}
    mean = {"process.pid": 10, "codesign.statistic": "mean"}
    largest = {"process.pid": 10, "codesign.statistic": "max"}
    write(
        capture,
        (11, semconv.PROCESS_CPU, 0.5, API),
        (12, semconv.PROCESS_CPU, 0.9, API),
        (11, semconv.PROCESS_CPU, 2.0, ENGINE),
        (11, semconv.PROCESS_RUN_QUEUE_WAIT, 0.25, API),
        (11, switches, 300.0, voluntary),
        (11, switches, 12.0, involuntary),
        (11, semconv.GIL_CONTENTION, 0.4, {"process.pid": 10}),
        (11, semconv.THREAD_CPU, 0.5, {**API, "thread.id": 10}),
        (11, lag, 0.001, mean),
        (12, lag, 0.002, mean),
        (13, lag, 0.010, mean),
        (12, lag, 0.080, largest),
        (11, semconv.GPU_UTILIZATION, 0.2, gpu),
        (11.1, semconv.GPU_UTILIZATION, 1.0, gpu),
        (11, semconv.GPU_MEMORY_USAGE, 1 << 30, GPU),
        (1, semconv.GPU_MEMORY_LIMIT, 192 << 30, GPU),
        (11, semconv.HW_POWER, 652.0, GPU),
        (11, semconv.HW_TEMPERATURE, 71.0, GPU),
    )


WANTED = Host(
    processes=(
        ProcessLoad(9, "engine_core", Load(2.0, 2.0), None, None, None, None),
        ProcessLoad(
            10,
            "api_server",
            Load(0.7, 0.9),
            Load(0.25, 0.25),
            300.0,
            12.0,
            Load(0.4, 0.4),
        ),
    ),
    loops=(LoopLag(10, 0.002, 0.080),),
    gpus=(
        GpuLoad(
            3,
            "GPU-1",
            "AMD Instinct MI300X",
            Load(0.6, 1.0),
            Load(1 << 30, 1 << 30),
            192 << 30,
            Load(652.0, 652.0),
            Load(71.0, 71.0),
        ),
    ),
)


def test_figures_of_a_capture(capture: Capture) -> None:
    everything(capture)
    request(capture, 10.5, 14.0)
    reading = Reading()
    assert host(capture, reading) == WANTED
    assert reading.unreadable == []


def test_only_while_there_are_requests(capture: Capture) -> None:
    write(
        capture,
        (1, semconv.PROCESS_CPU, 8.0, API),
        (11, semconv.PROCESS_CPU, 0.5, API),
        (99, semconv.PROCESS_CPU, 0.0, API),
    )
    found = host(capture)
    assert found is not None
    assert found.processes[0].cpu == Load(8.5 / 3, 8.0), "all of it where there is no request"
    request(capture, 10, 12)
    found = host(capture)
    assert found is not None
    assert found.processes[0].cpu == Load(0.5, 0.5)


def test_a_capture_without_series(capture: Capture) -> None:
    request(capture, 10, 12)
    assert host(capture) is None
    write(capture, (11, semconv.EXPORTER_CPU_TIME, 0.5, {"process.pid": 1}))
    assert host(capture) is None


def test_a_sample_that_is_no_number_is_left_out(capture: Capture) -> None:
    write(
        capture,
        (11, semconv.PROCESS_CPU, float("nan"), API),
        (12, semconv.PROCESS_CPU, float("inf"), API),
        (13, semconv.PROCESS_CPU, 0.5, API),
    )
    found = host(capture)
    assert found is not None
    assert found.processes[0].cpu == Load(0.5, 0.5)


def test_damaged_segments_are_named_once(capture: Capture) -> None:
    write(capture, (11, semconv.PROCESS_CPU, 0.5, API))
    (capture.series / "999999-x.parquet").write_bytes(b"PAR1garbage")
    reading = Reading()
    found = host(capture, reading)
    assert found is not None
    assert found.processes[0].cpu == Load(0.5, 0.5)
    assert len(reading.unreadable) == 1
    host(capture, reading)
    assert len(reading.unreadable) == 1


def test_a_segment_that_is_damaged_inside_is_named(capture: Capture) -> None:
    write(capture, *[(11 + i / 1000, semconv.PROCESS_CPU, i * 0.37, API) for i in range(2000)])
    (segment,) = capture.series.glob("*.parquet")
    raw = bytearray(segment.read_bytes())
    for at in range(4, len(raw) // 2):
        raw[at] ^= 0x5A
    segment.write_bytes(raw)
    reading = Reading()
    assert host(capture, reading) is None
    (line,) = reading.unreadable
    assert line.startswith(f"series of {capture.path} left out: ")
    assert "\n" not in line


def shown(found: Host | None) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(host_table(found), end="")
    return console.export_text()


def test_the_tables(capture: Capture) -> None:
    lines = [" ".join(line.split()) for line in shown(WANTED).splitlines() if line.strip()]
    assert lines == [
        "host (mean/max of the seconds with requests; lag p50/max, ms)",
        "process pid cores no CPU switches/s forced/s loop lag GIL",
        "engine_core 9 2.00/2.00 – – – – –",
        "api_server 10 0.70/0.90 0.25/0.25 300 12 2.00/80.00 0.40/0.40",
        "GPUs (by their driver; mean/max)",
        "GPU busy, % memory, GiB of power, W °C",
        "3 AMD Instinct MI300X 60.0/100.0 1.0/1.0 192.0 652/652 71/71",
    ]


def test_a_narrow_terminal_costs_no_digit() -> None:
    """An offline `LLM` has all roles in one process."""
    role = "api_server+engine_core+worker"
    one = replace(WANTED.processes[1], pid=1234567, role=role, voluntary_per_s=123456.0)
    text = shown(Host((one,), (LoopLag(1234567, 0.002, 0.08),), WANTED.gpus))
    for figure in ("1234567", "0.70/0.90", "0.25/0.25", "123456", "2.00/80.00", "652/652"):
        assert figure in text
    assert "…" not in text


def test_no_table_without_figures() -> None:
    assert shown(None).strip() == ""
    assert "GPU" not in shown(Host(WANTED.processes, (), ()))


def test_it_is_plain_data() -> None:
    plain = asdict(WANTED)
    assert plain["gpus"][0]["power_w"] == {"mean": 652.0, "max": 652.0}
    assert plain["processes"][0]["gil"] is None
