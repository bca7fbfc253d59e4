"""Counters of what was lost, over exporters that are killed: no dip, nothing counted twice."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.exported import Exported, read_exported
from tests.support.otlp_metrics_receiver import GrpcMetricsReceiver, metrics_of
from tests.support.otlp_receiver import free_port
from vllm_codesign import settings
from vllm_codesign.exporter.serve import Exporter
from vllm_codesign.exporter.tally import LOSSES, Tally
from vllm_codesign.recorder.layout import Ending, Kind
from vllm_codesign.recorder.ring import Ring
from vllm_codesign.recorder.session import Session, create
from vllm_codesign.semconv import metrics as M
from vllm_codesign.store.capture import latest

RING_BYTES = 1 << 16
TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"


@pytest.fixture(autouse=True)
def _no_otlp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return create(tmp_path, 2, {"started_unix_ns": time.time_ns()})


@pytest.fixture
def ring(session: Session) -> Ring:
    return Ring(session.folder / "process-1.ring", RING_BYTES)


def exporter(session: Session, store: Path | None, port: int = 0) -> Exporter:
    session.enter_exporter()
    return Exporter(session, settings.Settings(store=store, metrics_port=port))


def work(running: Exporter) -> None:
    running.collector.any_alive()
    running.poll()
    running.housekeep()


def kill(running: Exporter) -> None:
    """Its port goes with the process; nothing else of its end happens."""
    assert running.metrics is not None
    assert running.metrics.endpoint is not None
    running.metrics.endpoint.close()


def overflow(ring: Ring, by: int) -> None:
    """So many more records than anybody read."""
    for _ in range(ring.capacity + by):
        ring.emit(Kind.RESUMED, 1, 1)


def without_a_beginning(ring: Ring, key: int) -> None:
    """The end of a request whose beginning was lost: it is skipped."""
    now = time.monotonic_ns() - 10_000_000_000
    ring.emit(Kind.ROOT_BEGIN, key, now, now)
    ring.emit(Kind.ROOT_END, key, now, now, 200, 0, 0, Ending.COMPLETE)


def read(running: Exporter) -> Exported:
    assert running.metrics is not None
    assert running.metrics.endpoint is not None
    return read_exported(running.metrics.endpoint.url)


def losses(running: Exporter) -> dict[str, float]:
    """What is not 0."""
    counts = read(running).by(M.LOSSES, "codesign_loss")
    assert set(counts) == set(LOSSES)
    return {loss: count for loss, count in counts.items() if count}


def drops(running: Exporter) -> dict[str, float]:
    counts = read(running).by(M.RECORDS_DROPPED, "codesign_record_kind")
    return {kind: count for kind, count in counts.items() if count}


def test_metrics_go_on_where_a_killed_exporter_stood(
    session: Session, ring: Ring, tmp_path: Path
) -> None:
    first = exporter(session, tmp_path / "store", free_port())
    overflow(ring, by=5)
    without_a_beginning(ring, 7)
    ring.count_error()
    work(first)
    lost, dropped = losses(first), drops(first)
    assert lost["hook_errors"] == 1
    assert lost["roots_skipped"] == 1
    assert lost["orphan_records"] > 0
    assert dropped["resumed"] >= 5
    kill(first)

    second = exporter(session, tmp_path / "store", free_port())
    assert (losses(second), drops(second)) == (lost, dropped), "before it has read anything"
    work(second)
    assert (losses(second), drops(second)) == (lost, dropped), "nothing is counted twice"
    without_a_beginning(ring, 8)
    work(second)
    assert losses(second)["roots_skipped"] == 2
    kill(second)

    third = exporter(session, tmp_path / "store", free_port())
    assert losses(third)["roots_skipped"] == 2
    third.finish(complete=True)


def test_what_is_lost_while_there_is_no_exporter_is_an_increase(
    session: Session, ring: Ring, tmp_path: Path
) -> None:
    first = exporter(session, tmp_path / "store", free_port())
    begun = time.monotonic_ns()
    ring.emit(Kind.ROOT_BEGIN, 1, begun, begun)
    work(first)
    assert (losses(first), drops(first)) == ({}, {})
    kill(first)
    overflow(ring, by=5)
    second = exporter(session, tmp_path / "store", free_port())
    assert (losses(second), drops(second)) == ({}, {}), "it begins where the first stood"
    work(second)
    assert losses(second)["requests_lost"] == 1
    assert drops(second)["resumed"] >= 5
    second.finish(complete=True)


def test_the_run_file_has_what_a_killed_exporter_never_wrote_down(
    session: Session, ring: Ring, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    first = exporter(session, store)
    first.poll()  # writes the file for the first time
    without_a_beginning(ring, 7)
    first.counters["steps_not_stored"] = 3
    first.poll()
    assert latest(store).load().counters["roots_skipped"] == 0
    second = exporter(session, store)
    without_a_beginning(ring, 8)
    second.counters["steps_not_stored"] = 1
    second.finish(complete=True)
    counters = latest(store).load().counters
    assert counters["roots_skipped"] == 2
    assert counters["steps_not_stored"] == 4


def test_losses_are_left_to_the_next_exporter_without_a_store_too(session: Session) -> None:
    first = exporter(session, None)
    first.counters["traces_failed"] = 2
    first.finish(complete=False)
    assert Tally(session).before.losses["traces_failed"] == 2


@pytest.mark.parametrize("preference", ["cumulative", "delta"])
def test_pushed_losses_are_told_once(
    session: Session,
    ring: Ring,
    preference: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[int, int]] = []
    chosen = {TEMPORALITY: preference, "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
    with GrpcMetricsReceiver() as receiver:
        for name, value in {**receiver.environ, **chosen}.items():
            monkeypatch.setenv(name, value)
        for number, more in enumerate((3, 2), 1):
            running = exporter(session, tmp_path / "store")
            for _ in range(more):
                ring.count_error()
            work(running)
            assert running.metrics is not None
            running.metrics.close(5)
            push = receiver.received.wait(number)[-1]
            (point,) = (
                point
                for point in metrics_of(push)[M.LOSSES.name].sum.data_points
                if point.attributes[0].value.string_value == "hook_errors"
            )
            told.append((point.as_int, point.start_time_unix_nano))
    (first, began), (second, began_again) = told
    if preference == "delta":
        assert (first, second) == (3, 2)
    else:
        assert (first, second) == (3, 5)
        assert began == began_again, "one stream, from the first exporter's start"
