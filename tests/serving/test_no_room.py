"""No room in shared memory or in the store: the server serves, and says once what is missing.

vLLM needs /dev/shm itself, so ours is moved to a small tmpfs by CODESIGN_SHM.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.faults import (
    analyze,
    assert_answered,
    exporters_below,
    fill,
    loaded,
    outcomes,
    said,
    send,
    tmpfs,
)
from tests.support.otlp_receiver import GrpcReceiver
from tests.support.serving import processes_under, read_all, serve, wait_until
from vllm_codesign.recorder.session import sessions
from vllm_codesign.store.capture import captures
from vllm_codesign.store.writer import MAX_AGE_S

TROUBLES = ("full", "read-only", "absent")


@contextmanager
def troubled(folder: Path, trouble: str) -> Iterator[Path]:
    """A folder for shared memory that cannot be used, for one of three reasons."""
    if trouble == "absent":
        yield folder / "nowhere"
        return
    with tmpfs(folder, "64k") as shm:
        if trouble == "full":
            fill(shm)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(shm)], check=True)
        yield shm


CHILD = """
import logging, subprocess, sys
logging.basicConfig(format="%(levelname)s %(message)s", level="INFO")
from vllm_codesign.hooks import session_start
session_start.take_role("api_server")
session_start.take_role("engine_core")
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "-c", sys.orig_argv[2], "x"])
"""
"""A process that starts a session and a child that joins it, as vLLM's do."""


def start_without_vllm(tmp_path: Path, shm: Path) -> list[str]:
    """What a process and its child say when they start or join a session."""
    store = {"CODESIGN_STORE": str(tmp_path / "store"), "CODESIGN_SHM": str(shm)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, **store, "VLLM_PLUGINS": "codesign"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if "codesign" in line]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_one_warning_for_all_processes(tmp_path: Path, trouble: str) -> None:
    with troubled(tmp_path / "shm", trouble) as shm:
        (line,) = start_without_vllm(tmp_path, shm)
        assert line.startswith("WARNING codesign: no tracing")
        assert str(shm) in line
        assert not list(shm.glob("codesign-*"))
    assert not (tmp_path / "store").exists(), "no exporter was started"


def test_one_warning_where_a_session_fits_and_no_ring_does(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "shm", "64k") as shm:
        lines = start_without_vllm(tmp_path, shm)
    assert lines[0].startswith("INFO codesign: tracing")
    (warning,) = lines[1:]
    assert "records nothing" in warning
    assert "CODESIGN_RING_BYTES" in warning


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_server_without_shared_memory_serves(tmp_path: Path, trouble: str) -> None:
    with (
        troubled(tmp_path / "shm", trouble) as shm,
        serve(tmp_path, env={"CODESIGN_SHM": str(shm)}) as serving,
    ):
        assert_answered(send(serving, 5))
        (warning,) = said(tmp_path / "server.log")
        assert "no tracing" in warning
        assert exporters_below(serving.server.pid) == []
        assert not list(shm.glob("codesign-*"))
    assert not serving.store.exists()


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_shared_memory_that_fills_up_later_changes_nothing(tmp_path: Path) -> None:
    with (
        tmpfs(tmp_path / "shm", "8m") as shm,
        serve(tmp_path, env={"CODESIGN_SHM": str(shm)}) as serving,
    ):
        (session,) = sessions(shm)
        before = processes_under(serving.server.pid)
        fill(shm)
        # More records than a ring has slots: each page of it is written.
        with loaded(serving, clients=8, tokens=8) as load:
            wait_until(lambda: len(load.calls) > 150, 300, "150 requests")
        assert_answered(load.calls)
        traces = serving.traces([call.trace_id for call in load.calls])
        assert outcomes(load.calls, traces) == {"completed": len(load.calls)}
        assert processes_under(serving.server.pid) == before, "nobody died"
        assert said(tmp_path / "server.log") == []
        # A process that comes later finds no room for its own ring.
        late = {"CODESIGN_SESSION": str(session.folder), "CODESIGN_SHM": str(shm)}
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            env={**os.environ, **late},
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        (line,) = [line for line in done.stderr.splitlines() if "codesign" in line]
        assert "records nothing" in line
        folder = session.folder
    wait_until(lambda: not folder.exists(), 5, "the session's end")
    assert captures(serving.store)[0].load().counters["records_lost"] == 0


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_a_full_disk_costs_the_local_capture_alone(tmp_path: Path) -> None:
    with (
        tmpfs(tmp_path / "disk", "1m") as disk,
        GrpcReceiver() as receiver,
        serve(
            tmp_path,
            env={
                "CODESIGN_STORE": str(disk / "store"),
                "CODESIGN_KEEP_RECORDS": "0",
                **receiver.environ,
            },
        ) as serving,
    ):
        wait_until(lambda: bool(list(disk.glob("store/*/run.json"))), 30, "the capture")
        fill(disk)
        calls = send(serving, 20)
        assert_answered(calls)
        wanted = {int(call.trace_id, 16) for call in calls}
        wait_until(lambda: wanted <= set(receiver.received.traces()), 30, "all traces over OTLP")
        wait_until(lambda: bool(said(tmp_path / "server.log", "")), 30, "a line of the exporter")
        time.sleep(MAX_AGE_S + 2)  # the line may speak of another file: let their segment fail
        (disk / "filler").unlink()
        later = send(serving, 5)
        store = disk / "store"
        (capture,) = captures(store)

        def stored() -> bool:
            return {call.trace_id for call in later} <= set(read_all(capture).by_id)

        wait_until(stored, 40, "it stores again")
        (line,) = said(tmp_path / "server.log", "")
        assert "No space left on device" in line
        lost = 20 * 10  # twenty requests, of more than ten spans each

        def counted() -> bool:
            return capture.load().counters["rows_not_stored"] >= lost

        wait_until(counted, 15, "rows_not_stored")
        print(f"{line}\n{capture.load().counters}")
        assert "could not be written to the store" in analyze(capture.path).splitlines()[0]
