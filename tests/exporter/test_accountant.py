"""A request and its steps through the real exporter: the parts on its root, live and from the
capture."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.exporter.records import api_records, engine_records, us
from vllm_codesign import settings
from vllm_codesign.accounting import account, timelines
from vllm_codesign.analysis.overview import overview
from vllm_codesign.exporter import serve
from vllm_codesign.exporter.accountant import accounting_attributes
from vllm_codesign.exporter.serve import Exporter
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.recorder.layout import DeviceWork, Kind
from vllm_codesign.recorder.reader import Record
from vllm_codesign.recorder.ring import Ring
from vllm_codesign.recorder.session import create
from vllm_codesign.semconv import Part
from vllm_codesign.store.capture import latest
from vllm_codesign.store.reader import read_steps, read_traces

PID = os.getpid()
US = 1_000
STEPS = {
    # number: schedule, execute, forward, sample, update, since the last call
    1: ((3_000, 3_400), (3_450, 5_000), (3_500, 4_800), (5_050, 5_300), (5_400, 5_500), 0),
    2: ((5_520, 5_600), (5_650, 6_850), (5_700, 6_800), (6_900, 7_000), (7_100, 7_200), 20),
    3: ((7_210, 7_300), (7_350, 8_150), (7_400, 8_100), (8_200, 8_300), (8_400, 8_500), 10),
}
"""In microseconds: the request is admitted by the first; its first token is at 5,500, its last
at 8,500."""


def at(*microseconds: int) -> list[int]:
    return [us(each) for each in microseconds]


class Recorder:
    """Writes records of a server into its ring."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring

    def copy(self, record: Record) -> None:
        if record.payload:
            self.ring.emit_text(record.kind, record.key, record.s, record.c, record.payload)
        else:
            numbers = (record.t0, record.t1, record.a, record.b, record.c, record.s)
            self.ring.emit(record.kind, record.key, *numbers)

    def request(self, level: int) -> None:
        changes = {Kind.ROOT_BEGIN: {"c": level}, Kind.ENG_QUEUED: {"t1": 1}}
        for record in (*api_records(), *engine_records()):
            self.copy(record._replace(**changes.get(Kind(record.kind), {})))

    def step(self, number: int, device: bool = False) -> None:
        schedule, execute, forward, sample, update, before = STEPS[number]
        key, emit = PID << 40 | number, self.ring.emit
        told = min(number, 2)  # the third has the second's members
        if number == told:
            kind = Kind.STEP_CHUNKS if number == 1 else Kind.STEP_DECODES
            payload = (1).to_bytes(4, "little") + (16).to_bytes(4, "little") + bytes(24)
            self.ring.emit_text(kind, key, 1, 0, payload)
        emit(Kind.STEP, key, *at(*schedule), 1 << 32 | 1, before * US)
        emit(Kind.STEP_STATE, key, 0, 0, 1 << 32, PID << 40 | told, int(number == told))
        emit(Kind.WORKER_EXECUTE, key, *at(*execute), *at(*forward), 1)
        emit(Kind.WORKER_SAMPLE, key, *at(*sample))
        if device:
            model = at(forward[0] + 30, execute[1] + 40)
            emit(Kind.WORKER_DEVICE, key, *model, model[0], model[1] - 9, DeviceWork.MODEL)
            emit(
                Kind.WORKER_DEVICE, key, *at(sample[0] + 5, sample[1] - 5), 0, 0, DeviceWork.SAMPLE
            )
        waited = (update[0] - schedule[1]) * US
        emit(Kind.STEP_UPDATE, key, *at(*update), 0, waited, 1)


Run = Callable[[Callable[[Recorder], None]], tuple[RequestTrace, list[Step]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What a server records, through an exporter, to the trace and the steps that are stored."""

    def through(write: Callable[[Recorder], None]) -> tuple[RequestTrace, list[Step]]:
        session = create(tmp_path, 1, {"started_unix_ns": time.time_ns()})
        write(Recorder(Ring(session.folder / "process-1.ring", 1 << 16)))
        session.enter_exporter()
        exporter = Exporter(session, settings.Settings(store=tmp_path / "store", metrics_port=0))
        live: list[Step] = []
        take = exporter.accountant.take
        monkeypatch.setattr(
            exporter.accountant, "take", lambda step: (live.append(step), take(step))
        )
        exporter.poll()
        assert exporter.assembler.open == 0, "nothing waits for the end"
        exporter.finish(complete=True)
        assert exporter.counters["traces_failed"] == 0
        capture = latest(tmp_path / "store")
        assert sorted(read_steps(capture), key=lambda s: s.number) == live
        assert capture.load().counters["steps"] == len(live)
        (trace,) = read_traces(capture)
        return trace, live

    return through


def parts_of(attributes: Any) -> dict[str, int]:
    return {
        key.removeprefix("codesign.part.").removesuffix("_ns"): value
        for key, value in attributes.items()
        if key.startswith("codesign.part.")
    }


def in_us(parts: dict[str, int]) -> dict[str, float]:
    return {part: ns / US for part, ns in parts.items()}


def test_the_parts_stand_on_the_server_span(run: Run) -> None:
    def write(server: Recorder) -> None:
        for number in STEPS:
            server.step(number)
        server.request(level=2)

    trace, steps = run(write)
    assert len(steps) == 3
    attributes = trace.root.attributes
    parts = parts_of(attributes)
    assert set(parts) <= {part.value for part in Part}
    assert sum(parts.values()) == trace.root.duration_ns
    found = in_us(parts)
    # The device's wall time: from the forward to the end of execute_model, and sampling.
    assert found["device.prefill"] == 1_500 + 250
    assert found["device.decode"] == (1_150 + 100) + (750 + 100)
    assert found["device.gap.schedule"] == 400 + 80 + 90
    assert found["device.gap.prepare"] == 3 * 50
    assert found["device.gap.update"] == 3 * 100
    assert found["device.gap.output"] == 20 + 10
    assert found["device.gap.ipc"] == (50 + 50 + 100) + (50 + 50 + 100) + (50 + 50 + 100)
    exposed = [
        ns
        for part, ns in found.items()
        if part.split(".")[0] in ("frontend", "ipc") or part.startswith(("device.gap", "queue.h"))
    ]
    assert attributes["codesign.host.exposed_ns"] == sum(exposed) * US
    assert str(attributes["codesign.bottleneck"]) in parts


def test_phases_name_their_steps(run: Run) -> None:
    def write(server: Recorder) -> None:
        server.request(level=2)
        for number in STEPS:
            server.step(number)

    trace, _ = run(write)
    (prefill,), (decode,) = trace.named("prefill"), trace.named("decode")
    names = ("first", "last", "count")
    assert [prefill.attributes[f"codesign.steps.{name}"] for name in names] == [1, 1, 1]
    assert [decode.attributes[f"codesign.steps.{name}"] for name in names] == [2, 3, 2]
    assert prefill.attributes["codesign.device.duration_ns"] == 1_750 * US
    assert decode.attributes["codesign.device.duration_ns"] == 2_100 * US


@pytest.mark.parametrize("device", [False, True])
def test_a_capture_gives_the_same_integers(run: Run, device: bool) -> None:
    def write(server: Recorder) -> None:
        for number in STEPS:
            server.step(number, device)
        server.request(level=2)

    trace, steps = run(write)
    assert {d.source for s in steps for r in s.ranks for d in r.device} == {
        "events" if device else "wall"
    }
    live = trace.root.attributes
    again = accounting_attributes(account(trace, timelines(steps)))
    assert again == {key: live[key] for key in again}
    assert parts_of(live) == parts_of(again)
    assert sum(parts_of(live).values()) == trace.root.duration_ns
    bare = {k: v for k, v in live.items() if k not in again}
    stripped = RequestTrace(replace(trace.root, attributes=bare), trace.children)
    assert accounting_attributes(account(stripped, timelines(reversed(steps)))) == again


def test_below_level_step_the_phases_stand_for_the_parts(run: Run) -> None:
    trace, steps = run(lambda server: server.request(level=1))
    assert steps == []
    found = in_us(parts_of(trace.root.attributes))
    assert sum(found.values()) * US == trace.root.duration_ns
    assert found["engine.queue"] == 1_500
    assert found["engine.prefill"] == 2_500
    assert found["engine.decode"] == 3_000
    assert not any(part.startswith(("device", "queue")) for part in found)
    (prefill,) = trace.named("prefill")
    assert "codesign.steps.first" not in prefill.attributes


def test_a_trace_that_cannot_be_accounted_for_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trace: RequestTrace) -> RequestTrace:
        raise ValueError("no parts")

    session = create(tmp_path, 1, {"started_unix_ns": time.time_ns()})
    Recorder(Ring(session.folder / "process-1.ring", 1 << 16)).request(level=2)
    session.enter_exporter()
    exporter = Exporter(session, settings.Settings(store=tmp_path / "store", metrics_port=0))
    monkeypatch.setattr(exporter.accountant, "account", broken)
    exporter.finish(complete=True)
    assert exporter.counters["traces_failed"] == 1
    (trace,) = read_traces(latest(tmp_path / "store"))
    assert parts_of(trace.root.attributes) == {}


def test_a_step_that_cannot_be_told_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = create(tmp_path, 1, {"started_unix_ns": time.time_ns()})
    server = Recorder(Ring(session.folder / "process-1.ring", 1 << 16))
    for number in STEPS:
        server.step(number)
    server.request(level=2)
    session.enter_exporter()
    exporter = Exporter(session, settings.Settings(store=tmp_path / "store", metrics_port=0))
    take = exporter.accountant.take

    def sometimes(step: Step) -> None:
        if step.number == 2:
            raise RuntimeError("this one")
        take(step)

    monkeypatch.setattr(exporter.accountant, "take", sometimes)
    exporter.finish(complete=True)
    assert exporter.counters["traces_failed"] == 1
    capture = latest(tmp_path / "store")
    assert sorted(step.number for step in read_steps(capture)) == [1, 3]
    assert len(list(read_traces(capture))) == 1


def test_lost_steps_are_counted(tmp_path: Path) -> None:
    session = create(tmp_path, 1, {"started_unix_ns": time.time_ns()})
    server = Recorder(Ring(session.folder / "process-1.ring", 1 << 16))
    server.step(1)
    server.step(3)
    session.enter_exporter()
    exporter = Exporter(session, settings.Settings(store=tmp_path / "store", metrics_port=0))
    exporter.finish(complete=True)
    capture = latest(tmp_path / "store")
    assert capture.load().counters["steps_lost"] == 1
    one, three = sorted(read_steps(capture), key=lambda step: step.number)
    assert (one.number, len(one.members or ())) == (1, 0), "its request is not known"
    assert three.members is None


def test_steps_are_no_requests_that_a_killed_exporter_takes_along(tmp_path: Path) -> None:
    session = create(tmp_path, 1, {"started_unix_ns": time.time_ns()})
    server = Recorder(Ring(session.folder / "process-1.ring", 1 << 16))
    for number in STEPS:
        server.step(number)
    session.enter_exporter()
    exporter = Exporter(session, settings.Settings(store=tmp_path / "store", metrics_port=0))
    exporter.poll()
    assert exporter.counters["steps"] == 3
    assert exporter.local is not None
    assert exporter.local.unsaved == 0


def test_one_that_falls_behind_leaves_out_traces_of_steps_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sooner than lose records; requests are accounted for by those steps all the same."""
    session = create(tmp_path, 1, {"started_unix_ns": time.time_ns()})
    server = Recorder(Ring(session.folder / "process-1.ring", 1 << 16))
    for number in STEPS:
        server.step(number)
    server.request(level=2)
    session.enter_exporter()
    exporter = Exporter(session, settings.Settings(store=tmp_path / "store", metrics_port=0))
    monkeypatch.setattr(serve, "BEHIND", 1_000)
    exporter.poll()
    exporter.finish(complete=True)
    capture = latest(tmp_path / "store")
    assert list(read_steps(capture)) == []
    assert exporter.counters["steps"] == exporter.counters["steps_not_stored"] == 3
    (trace,) = read_traces(capture)
    assert parts_of(trace.root.attributes)[Part.DEVICE_DECODE.value] > 0
    assert any("3 steps were left out" in line for line in overview(capture.path).lossy)
