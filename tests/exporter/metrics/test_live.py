"""Metrics in a real exporter: its rings, its ports, its end."""

from __future__ import annotations

import logging
import os
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from tests.exporter.test_accountant import Recorder
from tests.support.exported import Exported, read_exported
from tests.support.otlp_metrics_receiver import GrpcMetricsReceiver, metrics_of, resource_of
from tests.support.otlp_receiver import free_port
from vllm_codesign import settings
from vllm_codesign.exporter.metrics import live
from vllm_codesign.exporter.serve import Exporter
from vllm_codesign.model.step import Step
from vllm_codesign.recorder.ring import Ring
from vllm_codesign.recorder.session import Session, create
from vllm_codesign.semconv import metrics as M
from vllm_codesign.store.capture import latest
from vllm_codesign.store.reader import read_steps, read_traces


@pytest.fixture(autouse=True)
def _no_otlp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = create(tmp_path, 2, {"started_unix_ns": time.time_ns()})
    made.enter_exporter()
    return made


@pytest.fixture
def recorder(session: Session) -> Recorder:
    return Recorder(Ring(session.folder / "process-1.ring", 1 << 16))


def served(recorder: Recorder) -> None:
    """A request at level `step`, and its three steps."""
    recorder.request(2)
    for number in (1, 2, 3):
        recorder.step(number)


def run(session: Session, store: Path | None, port: int) -> Exporter:
    exporter = Exporter(session, settings.Settings(store=store, metrics_port=port))
    exporter.collector.any_alive()
    exporter.poll()
    exporter.housekeep()
    return exporter


def read(exporter: Exporter) -> Exported:
    assert exporter.metrics is not None
    assert exporter.metrics.endpoint is not None
    return read_exported(exporter.metrics.endpoint.url)


def test_what_was_recorded_is_served(session: Session, recorder: Recorder, tmp_path: Path) -> None:
    served(recorder)
    exporter = run(session, tmp_path / "store", free_port())
    said = read(exporter)
    exporter.finish(complete=True)
    (trace,) = read_traces(latest(tmp_path / "store"))
    steps: list[Step] = list(read_steps(latest(tmp_path / "store")))
    assert said.value(M.REQUESTS) == said.value(M.REQUEST_DURATION, "_count") == 1
    assert said.value(M.PART_TIME) == pytest.approx(trace.root.duration_ns / 1e9, rel=1e-12)
    (exemplar,) = said.exemplars(M.REQUEST_DURATION)
    assert exemplar.labels["trace_id"] == f"{trace.trace_id:032x}"
    planned = sum(s.schedule[1] - s.schedule[0] for s in steps) / 1e9
    assert said.value(M.SCHEDULE_DURATION, "_count") == len(steps) == 3
    assert said.value(M.SCHEDULE_DURATION, "_sum") == pytest.approx(planned, rel=1e-12)
    assert said.value(M.STEP_REQUESTS, "_sum") == 3
    busy = said.value(M.DEVICE_TIME, codesign_device_state="busy")
    device = [(d.start_ns, d.end_ns) for s in steps for r in s.ranks for d in r.device]
    assert busy == pytest.approx(sum(b - a for a, b in device) / 1e9, rel=1e-9)
    assert said.value(M.POOL_BUSY) == pytest.approx(440e-6)
    assert said.value(M.EXPORTER_CPU) > 0
    assert said.value(M.LOSSES) == said.value(M.RECORDS_DROPPED) == 0
    samples = [s for family in said.families.values() for s in family.samples]
    assert {s.labels["service_instance_id"] for s in samples} == {session.folder.name}
    assert {s.labels["codesign_arm"] for s in samples} == {""}


def test_without_a_store_figures_are_the_same_and_nothing_claims_a_trace(
    session: Session, recorder: Recorder
) -> None:
    served(recorder)
    exporter = run(session, None, free_port())
    said = read(exporter)
    exporter.finish(complete=True)
    assert said.value(M.REQUESTS) == 1
    assert said.value(M.EXPORTER_CPU) > 0, "samplers run for metrics too"
    assert said.exemplars(M.REQUEST_DURATION) == []


def test_a_run_that_is_sampled_away_counts_whole(
    session: Session, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with GrpcMetricsReceiver() as receiver:
        for name, value in {
            **receiver.environ,
            "OTEL_TRACES_SAMPLER": "always_off",
            "OTEL_RESOURCE_ATTRIBUTES": "codesign.arm=lmcache,service.instance.id=mine",
            "OTEL_SERVICE_NAME": "chat",
        }.items():
            monkeypatch.setenv(name, value)
        served(recorder)
        exporter = run(session, tmp_path / "store", free_port())
        said = read(exporter)
        exporter.finish(complete=True)
        last = receiver.received.requests[-1]
    assert said.value(M.REQUESTS, codesign_arm="lmcache", service_name="chat") == 1
    resource = resource_of(last)
    assert (resource["codesign.arm"], resource["service.name"]) == ("lmcache", "chat")
    assert resource["service.instance.id"] == "mine"
    (point,) = metrics_of(last)[M.REQUEST_DURATION.name].histogram.data_points
    assert point.count == 1
    assert len(point.exemplars) <= 1
    whole = sum(p.as_double for p in metrics_of(last)[M.DEVICE_TIME.name].sum.data_points)
    assert whole > said.value(M.DEVICE_TIME), "the end accounts for what had not settled"


def test_a_taken_port_is_a_warning_and_is_tried_again(
    session: Session,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(live, "TRY_AGAIN_S", 0.0)
    served(recorder)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with caplog.at_level(logging.WARNING):
            exporter = run(session, None, port)
            exporter.housekeep()
        (line,) = [r.getMessage() for r in caplog.records if "metrics" in r.getMessage()]
        assert f"no metrics on 127.0.0.1:{port} (Address already in use)" in line
        assert "set CODESIGN_METRICS_PORT to another port, or to 0 for none" in line
    exporter.housekeep()
    assert read(exporter).value(M.REQUESTS) == 1, "what came before is counted"
    exporter.finish(complete=True)
    with socket.create_server(("127.0.0.1", port)):
        pass  # it is free again


def test_two_servers_do_not_meet(tmp_path: Path) -> None:
    port = free_port()
    exporters = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        session = create(tmp_path / name, 2, {"started_unix_ns": time.time_ns()})
        session.enter_exporter()
        recorder = Recorder(Ring(session.folder / "process-1.ring", 1 << 16))
        served(recorder)
        exporters.append(run(session, tmp_path / name / "store", port))
    first, second = exporters
    said = read(first)
    samples = [s for family in said.families.values() for s in family.samples]
    assert {s.labels["service_instance_id"] for s in samples} == {first.session.folder.name}
    assert second.metrics is not None
    assert second.metrics.endpoint is None
    for exporter in exporters:
        exporter.finish(complete=True)
        assert latest(exporter.settings.store).load().counters["requests"] == 1  # type: ignore[arg-type]


def test_what_a_killed_exporter_had_counted_is_not_counted_again(
    session: Session, recorder: Recorder, tmp_path: Path
) -> None:
    served(recorder)
    first = run(session, tmp_path / "store", free_port())
    assert read(first).value(M.REQUESTS) == 1
    assert first.metrics is not None
    first.metrics.close(1.0)  # its port goes with the process; nothing else of its end happens
    second = run(session, tmp_path / "store", free_port())
    assert read(second).value(M.REQUESTS) == read(second).value(M.SCHEDULE_DURATION, "_count") == 0
    recorder.request(2)
    second.poll()
    assert read(second).value(M.REQUESTS) == 1
    second.finish(complete=True)


def test_no_port_and_no_endpoint_are_no_metrics(session: Session) -> None:
    exporter = run(session, None, 0)
    assert exporter.metrics is None
    exporter.finish(complete=True)


def test_what_fails_here_costs_no_trace_and_is_said_once(
    session: Session,
    recorder: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    served(recorder)
    monkeypatch.setattr(live.RequestMetrics, "take", lambda *_: 1 / 0)
    monkeypatch.setattr(live.StepMetrics, "take", lambda *_: 1 / 0)
    exporter = run(session, tmp_path / "store", free_port())
    assert len([r for r in caplog.records if "metrics are not whole" in r.getMessage()]) == 1
    assert read(exporter).value(M.LOSSES, codesign_loss="metrics_failed") == 4
    exporter.finish(complete=True)
    assert len(list(read_traces(latest(tmp_path / "store")))) == 1


def test_an_exporter_that_cannot_be_made_costs_no_trace(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A credential provider that is not installed: OpenTelemetry raises a RuntimeError."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "nope")
    run(session, None, 0).finish(True)
    assert "no metrics are sent over OTLP" in caplog.text


def test_bad_variables_are_said_and_metrics_are_served_all_the_same(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "soon")
    exporter = run(session, None, free_port())
    assert [r.getMessage() for r in caplog.records] == [
        "codesign: no metrics are sent over OTLP: OTEL_METRIC_EXPORT_INTERVAL='soon' is not a "
        "whole number above 0; the default is 60000"
    ]
    assert exporter.metrics is not None
    assert exporter.metrics.endpoint is not None
    with urllib.request.urlopen(exporter.metrics.endpoint.url) as response:
        assert response.status == 200
    exporter.finish(complete=True)
