"""The exporter and its local capture, with a session that this process records into."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_codesign import settings
from vllm_codesign.exporter.serve import Exporter
from vllm_codesign.recorder.layout import Ending, Kind
from vllm_codesign.recorder.reader import Record
from vllm_codesign.recorder.ring import Ring
from vllm_codesign.recorder.session import Session, create
from vllm_codesign.store.capture import RunInfo, latest
from vllm_codesign.store.reader import read_traces

SECOND = 1_000_000_000


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return create(tmp_path, 1, {"started_unix_ns": time.time_ns()})


@pytest.fixture
def ring(session: Session) -> Ring:
    return Ring(session.folder / "process-1.ring", 1 << 16)


def begin(ring: Ring, key: int) -> None:
    now = time.monotonic_ns() - 20 * SECOND
    ring.emit(Kind.ROOT_BEGIN, key, now, now)
    ring.emit(Kind.ROOT_PARENT, key, 0, key, key, 0)


def end(ring: Ring, key: int) -> None:
    now = time.monotonic_ns() - 10 * SECOND
    ring.emit(Kind.ROOT_END, key, now, now, 200, 0, 0, Ending.COMPLETE)


def exporter(session: Session, store: Path) -> Exporter:
    session.enter_exporter()
    return Exporter(session, settings.Settings(store=store, metrics_port=0))


def test_what_a_killed_exporter_takes_along_is_counted(
    session: Session, ring: Ring, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    first = exporter(session, store)
    for key in (1, 2, 3):
        begin(ring, key)
    end(ring, 1)
    first.poll()
    first.save_run(complete=False)
    assert first.counters["requests"] == 1
    # Killed here: request 1 is in the open segment, 2 and 3 are in assembly.
    second = exporter(session, store)
    end(ring, 2)
    for key in (4, 5):
        begin(ring, key)
        end(ring, key)
    second.finish(complete=True)
    run = latest(store).load()
    assert run.counters["requests_lost"] == 3
    assert run.counters["requests"] == 3, "one that the first handed out, two of the second"
    assert run.counters["exporter_starts"] == 2
    assert run.counters["orphan_records"] == 1
    assert sorted(t.trace_id for t in read_traces(latest(store))) == [4, 5]


def test_nothing_is_lost_once_its_segment_is_closed(
    session: Session, ring: Ring, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    first = exporter(session, store)
    begin(ring, 1)
    end(ring, 1)
    first.poll()
    assert first.local is not None
    first.local.close()
    first.poll()
    second = exporter(session, store)
    second.finish(complete=True)
    assert latest(store).load().counters["requests_lost"] == 0
    assert [t.trace_id for t in read_traces(latest(store))] == [1]


def test_engine_work_whose_request_went_with_another_exporter_says_so(
    session: Session, ring: Ring, tmp_path: Path
) -> None:
    now = time.monotonic_ns() - 10 * SECOND
    ring.emit(Kind.REQ, 77, now, now + 1, 1)
    ring.emit(Kind.REQ_OUT, 77, now + 5, now + 9, 3, 3, 0, 2)
    ring.emit(Kind.ENG_FINISHED, 77, now + 9)
    exporter(session, tmp_path / "store").finish(complete=True)
    (trace,) = read_traces(latest(tmp_path / "store"))
    assert trace.root.name == "engine.request"
    assert trace.root.attributes["codesign.lossy"] is True


def test_a_lost_admission_leaves_the_queue_out(
    session: Session, ring: Ring, tmp_path: Path
) -> None:
    now = time.monotonic_ns() - 10 * SECOND
    ring.emit(Kind.REQ, 77, now, now + 1)
    ring.emit(Kind.ENG_QUEUED, 77, now + 2)
    ring.emit(Kind.REQ_OUT, 77, now + 5, now + 9, 3, 3, 0, 2)
    ring.emit(Kind.ENG_FINISHED, 77, now + 9)
    exporter(session, tmp_path / "store").finish(complete=True)
    (trace,) = read_traces(latest(tmp_path / "store"))
    assert [span.name for span in trace.children] == ["engine.dispatch", "decode"]


def test_a_full_disk_is_said_once_and_counted(
    session: Session, ring: Ring, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    running = exporter(session, store)
    assert running.local is not None
    # The same error as of a full disk, where files cannot be made at all.
    capture = running.local.capture.path
    for folder in ("traces", "series"):
        (capture / folder).rmdir()
        (capture / folder).write_text("")
    for key in range(1, 4):
        begin(ring, key)
        end(ring, key)
        running.poll()
        running.housekeep()
        running.local.close()
    running.finish(complete=True)
    errors = [r.getMessage() for r in caplog.records if "codesign:" in r.getMessage()]
    assert len(errors) == 1, errors
    assert "traces" in errors[0]
    assert latest(store).load().counters["rows_not_stored"] >= 3


SERVE = """
import sys
from pathlib import Path
from vllm_codesign.exporter.serve import serve
sys.exit(serve(Path(sys.argv[1])))
"""


@pytest.fixture
def start(session: Session, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts an exporter of the session, without its standby."""
    started = []

    def begin(**env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(session.folder)],
            stderr=subprocess.PIPE,
            text=True,
            # A server that runs on this machine may have the port.
            env={**os.environ, "CODESIGN_METRICS_PORT": "0", **env},
        )
        started.append(process)
        deadline = time.monotonic() + 60
        while session.exporter[0] != process.pid:
            assert time.monotonic() < deadline, "the exporter did not come up"
            time.sleep(0.02)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


CHILD = """
import sys, time
from pathlib import Path
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record
from vllm_codesign.recorder.ring import Ring
ring = Ring(Path(sys.argv[1]) / "process-2.ring", 1 << 16)
now = time.monotonic_ns()
ring.emit(Kind.ROOT_BEGIN, 9, now, now)
ring.emit(Kind.ROOT_PARENT, 9, 0, 9, 9, 0)
print(flush=True)
time.sleep(60)
"""


def test_requests_of_a_killed_process_fail_while_the_rest_goes_on(
    session: Session, ring: Ring, tmp_path: Path
) -> None:
    begin(ring, 1)
    running = exporter(session, tmp_path / "store")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(session.folder)], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        running.poll()
        assert running.collector.any_alive()
        running.poll()
        assert running.counters["requests"] == 0
        child.kill()
    assert running.collector.any_alive(), "this process"
    running.poll()
    assert running.counters["requests"] == 1
    assert running.local is not None
    running.local.close()
    (trace,) = read_traces(latest(tmp_path / "store"))
    assert trace.trace_id == 9
    assert trace.root.attributes["codesign.outcome"] == "failed"
    assert trace.root.duration_ns > 0


@pytest.mark.parametrize("store", ["/dev/null/store", "/proc/store"])
def test_an_unwritable_store_is_one_line(
    session: Session, ring: Ring, start: Callable[..., subprocess.Popen[str]], store: str
) -> None:
    process = start(CODESIGN_STORE=store)
    begin(ring, 1)
    end(ring, 1)
    time.sleep(1.5)
    assert process.poll() is None, "it goes on, for OTLP"
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert said.count("\n") == 1, said
    assert "CODESIGN_STORE" in said


def test_each_bad_variable_of_opentelemetry_is_one_line(
    session: Session, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(
        CODESIGN_STORE="",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_PROTOCOL="pigeon",
        OTEL_TRACES_SAMPLER="sometimes",
    )
    time.sleep(1)
    assert process.poll() is None
    process.kill()
    _, said = process.communicate()
    lines = said.splitlines()
    assert len(lines) == 2, said
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_SAMPLER"):
        assert [f"{name}=" in line for line in lines].count(True) == 1


def run_of(store: Path) -> RunInfo | None:
    return latest(store).load() if list(store.glob("*/run.json")) else None


def test_repeated_kills_go_on_in_one_capture(
    session: Session,
    ring: Ring,
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    for kill in range(3):
        process = start(CODESIGN_STORE=str(store))
        begin(ring, kill + 1)
        deadline = time.monotonic() + 20
        while session.open_requests != 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.wait()
    start(CODESIGN_STORE=str(store))
    deadline = time.monotonic() + 20
    while (run := run_of(store)) is None or run.counters.get("requests_lost") != 3:
        assert time.monotonic() < deadline, run
        time.sleep(0.1)
    assert run.counters["exporter_starts"] == 4
    assert len(list(store.iterdir())) == 1


def test_killed_in_mid_round_what_it_had_read_counts_as_lost(
    session: Session, tmp_path: Path
) -> None:
    """A round is read in batches of 1,024; those behind the one at hand are not seen again."""
    ring = Ring(session.folder / "process-1.ring", 1 << 18)
    first = exporter(session, tmp_path / "store")
    for key in range(1, 1501):
        begin(ring, key)
    take, taken = first.assembler.take, 0

    def take_some(pid: int, record: Record) -> None:
        nonlocal taken
        if taken == 2500:
            raise KeyboardInterrupt  # as with a kill, nothing more is done
        taken += 1
        take(pid, record)

    first.assembler.take = take_some  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.poll()
    assert session.open_requests == 1024, "two records a request, two batches"
    second = exporter(session, tmp_path / "store")
    second.poll()
    assert (session.requests_lost, session.open_requests) == (1024, 476)


def test_the_run_file_follows_each_segment(session: Session, ring: Ring, tmp_path: Path) -> None:
    """What is stored is counted, should the exporter be killed a moment later."""
    store = tmp_path / "store"

    def counted() -> int:
        run = run_of(store)
        assert run is not None
        return run.counters["requests"]

    it = exporter(session, store)
    it.poll()  # writes the file for the first time
    begin(ring, 1)
    end(ring, 1)
    it.poll()
    assert it.local is not None
    assert (it.counters["requests"], counted()) == (1, 0)
    it.local.close()
    it.poll()
    assert counted() == 1
