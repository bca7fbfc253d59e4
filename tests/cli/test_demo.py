"""What the demo leaves behind, and what it makes of a run that failed."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_codesign.bench import results
from vllm_codesign.cli import demo
from vllm_codesign.model.bench import BenchRun, RequestResult, Scenario
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.recorder import session

SCENARIO = Scenario(name="one", concurrency=1, prompt_tokens=10)


def _write(out: Path, *, capture: str | None, error: str | None = None) -> None:
    row = RequestResult(
        scenario="one",
        repeat=0,
        index=0,
        trace_id="0" * 31 + "1",
        start_unix_ns=1,
        status="error" if error else "ok",
        error=error,
    )
    run = BenchRun(
        tool_version="0",
        url="http://127.0.0.1:1",
        model="tiny",
        capture=capture,
        started_unix_ns=1,
        scenarios=[SCENARIO],
        requests=[row],
    )
    results.write(out / results.FILE_NAME, run)


def test_an_earlier_demo_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "capture" / "traces").mkdir(parents=True)
    for name in ("results.json", "report.html", "server.log", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "model").mkdir()
    demo._clear(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "notes.txt"]


def test_a_good_run_passes(tmp_path: Path) -> None:
    _write(tmp_path, capture=str(tmp_path / "capture"))
    demo._check(tmp_path)


def test_a_run_without_a_capture_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path, capture=None)
    with pytest.raises(CodesignError, match="left no capture"):
        demo._check(tmp_path)


def test_a_failed_request_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path, capture="c", error="HTTP 500")
    with pytest.raises(CodesignError, match="1 of 1 requests failed, the first with 'HTTP 500'"):
        demo._check(tmp_path)


def test_a_session_that_nobody_is_left_of_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    orphan = session.create(tmp_path, 1, {})
    struct.pack_into("<Q", orphan.control, session.C_OWNER_PID, ended.pid)
    demo._see_sessions_off(tmp_path, before=set())
    assert not orphan.folder.exists()


def test_the_session_of_another_server_is_left_alone(tmp_path: Path) -> None:
    other = session.create(tmp_path, 1, {})  # its owner, this process, is alive
    demo._see_sessions_off(tmp_path, before=set())
    assert other.folder.exists()


def test_a_session_from_before_is_left_alone(tmp_path: Path) -> None:
    old = session.create(tmp_path, 1, {})
    struct.pack_into("<Q", old.control, session.C_OWNER_PID, 0)
    demo._see_sessions_off(tmp_path, before={old.folder})
    assert old.folder.exists()
