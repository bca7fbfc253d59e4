"""The exporter and its standby, killed one by one and together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.exported import read_exported
from tests.support.otlp_receiver import free_port
from vllm_codesign.recorder.process import alive
from vllm_codesign.recorder.ring import Ring
from vllm_codesign.recorder.session import Session, create, join
from vllm_codesign.semconv import metrics as M

OWNER = """
import sys, time
from pathlib import Path
from vllm_codesign.recorder.session import create
print(create(Path(sys.argv[1]), 1, {"started_unix_ns": time.time_ns()}).folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server: it has a session until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def session(owner: subprocess.Popen[str]) -> Session:
    assert owner.stdout is not None
    return join(Path(owner.stdout.readline().strip()))


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(session: Session, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(**env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm_codesign.exporter", str(session.folder)],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "CODESIGN_STORE": str(tmp_path / "store"),
                "CODESIGN_METRICS_PORT": "0",
                **env,
            },
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
    if session.exporter[0] and alive(*session.exporter):
        os.kill(session.exporter[0], signal.SIGKILL)
    for process in started:
        process.communicate()


def wait_until(true: Callable[[], bool], seconds: float = 60) -> float:
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds
        time.sleep(0.02)
    return time.monotonic() - begun


def at_work(session: Session, before: tuple[int, int] = (0, 0)) -> bool:
    return session.exporter != before and alive(*session.exporter)


def test_a_killed_exporter_is_replaced_at_once(session: Session, start: Start) -> None:
    standby = start()
    for _ in range(3):
        wait_until(lambda: at_work(session))
        before = session.exporter
        assert before[0] != standby.pid
        os.kill(before[0], signal.SIGKILL)
        assert wait_until(lambda killed=before: at_work(session, killed)) < 5
    assert session.exporter_starts == 4
    assert standby.poll() is None


def test_a_scrape_right_after_a_kill_sees_the_losses_of_before(
    session: Session, start: Start
) -> None:
    port = free_port()
    ring = Ring(session.folder / "process-1.ring", 1 << 16)
    for _ in range(3):
        ring.count_error()
    start(CODESIGN_METRICS_PORT=str(port))
    seen: list[float] = []

    def scraped() -> bool:
        with suppress(OSError):  # nobody listens yet, or not any more
            said = read_exported(f"http://127.0.0.1:{port}/metrics")
            seen.append(said.value(M.LOSSES, codesign_loss="hook_errors"))
            return True
        return False

    wait_until(lambda: scraped() and seen[-1] == 3)
    for _ in range(2):
        seen.clear()
        before = session.exporter
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda killed=before: scraped() and at_work(session, killed))
        until = time.monotonic() + 1.5  # longer than it is from one look to the next
        wait_until(lambda end=until: scraped() and time.monotonic() > end)
        assert set(seen) == {3}, seen


def test_a_killed_standby_takes_no_exporter_along(session: Session, start: Start) -> None:
    first = start()
    wait_until(lambda: at_work(session))
    exporter = session.exporter
    first.kill()
    first.wait()
    second = start()
    time.sleep(3)
    assert (session.exporter, session.exporter_starts) == (exporter, 1), "there never are two"
    assert second.poll() is None
    os.kill(exporter[0], signal.SIGKILL)
    wait_until(lambda: at_work(session, exporter))


def test_both_end_with_the_server(
    owner: subprocess.Popen[str], session: Session, start: Start
) -> None:
    standby = start()
    wait_until(lambda: at_work(session))
    os.kill(standby.pid, signal.SIGTERM)  # as a service manager does
    exporter = session.exporter
    owner.kill()
    owner.wait()
    assert standby.wait(30) == 0
    assert not alive(*exporter)
    assert not session.folder.exists()


def test_an_exporter_that_dies_with_nobody_to_serve_is_replaced_to_finish(
    owner: subprocess.Popen[str], session: Session, start: Start
) -> None:
    standby = start()
    wait_until(lambda: at_work(session))
    os.kill(session.exporter[0], signal.SIGSTOP)
    owner.kill()
    owner.wait()
    os.kill(session.exporter[0], signal.SIGKILL)
    assert standby.wait(30) == 0
    assert not session.folder.exists()


def test_what_is_no_session_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vllm_codesign.exporter", str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no session of a running server" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_exporter_that_dies_again_and_again_is_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm_codesign.exporter import standby

    made = create(tmp_path, 1, {})
    forks: list[int] = []

    def fork() -> int:
        forks.append(1)
        return 1

    def pause(seconds: float) -> None:
        assert seconds == standby.PAUSE_S
        made.remove()

    monkeypatch.setattr(standby.os, "fork", fork)
    monkeypatch.setattr(standby.os, "waitpid", lambda pid, flags: (pid, signal.SIGKILL))
    monkeypatch.setattr(standby.time, "sleep", pause)
    monkeypatch.setattr(standby.signal, "signal", lambda *_: None)
    assert standby.keep(made.folder) == 0
    assert len(forks) == standby.FORKS_PER_MINUTE
    assert "paused" in caplog.text
