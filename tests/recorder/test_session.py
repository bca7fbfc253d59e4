"""The session folder: made, joined, shared, swept."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_codesign.recorder import session as sessions
from vllm_codesign.recorder.process import alive, identity, start_ticks
from vllm_codesign.recorder.ring import Ring
from vllm_codesign.recorder.session import MAX_TOTAL_BYTES, Session, SessionGone, create, join


@pytest.fixture
def dead() -> tuple[int, int]:
    """A process that was."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ticks = start_ticks(process.pid)
    process.kill()
    process.wait()
    return process.pid, ticks


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def own(session: Session, pid: int, ticks: int) -> None:
    session._set(sessions.C_OWNER_PID, pid)
    session._set(sessions.C_OWNER_TICKS, ticks)


def test_what_is_made(session: Session) -> None:
    pid, ticks = identity()
    assert session.folder.name == f"codesign-{pid}-{ticks}"
    assert session.folder.stat().st_mode & 0o777 == 0o700
    assert sorted(p.name for p in session.folder.iterdir()) == ["control", "session.json"]
    assert json.loads((session.folder / "session.json").read_text()) == {"argv": ["vllm", "serve"]}
    assert (session.owner, session.exporter, session.level) == ((pid, ticks), (0, 0), 1)


def test_both_sides_see_the_same_page(session: Session) -> None:
    joined = join(session.folder)
    joined.level = 2
    joined.enter_exporter()
    assert (session.level, session.exporter) == (2, identity())
    assert (session.exporter_starts, session.requests_lost) == (1, 0)


def test_what_a_killed_exporter_held_counts_as_lost(session: Session) -> None:
    session.enter_exporter()
    session.report_open(5)
    session.enter_exporter()
    assert session.requests_lost == 5
    session.report_open(2)
    session.report_open(0)
    session.enter_exporter()
    assert (session.requests_lost, session.exporter_starts) == (5, 3)


def test_join_refuses_what_is_none(session: Session, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        join(tmp_path / "nowhere")
    control = session.folder / "control"
    raw = control.read_bytes()
    for damaged in (raw[:100], b"\0" * 4096, raw[:8] + b"\x63" + raw[9:]):
        control.write_bytes(damaged)
        with pytest.raises(SessionGone):
            join(session.folder)


def test_no_room_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        create(tmp_path, 1, {})
    assert list(tmp_path.iterdir()) == []


def test_all_rings_together_stay_below_the_cap(session: Session) -> None:
    mib = 1 << 20
    assert session.room(mib) == mib
    for number in range(16):
        with (session.folder / f"process-{number}.ring").open("wb") as file:
            file.truncate(mib - 4096)
    assert session.room(mib) == MAX_TOTAL_BYTES - 16 * (mib - 4096) == 65536
    with (session.folder / "process-16.ring").open("wb") as file:
        file.truncate(65536)
    assert session.room(mib) == 0


def test_alive_tells_a_reused_pid(sleeper: subprocess.Popen[bytes]) -> None:
    ticks = start_ticks(sleeper.pid)
    assert ticks > 0
    assert alive(sleeper.pid, ticks)
    assert not alive(sleeper.pid, ticks - 1), "another process had this pid before"
    assert not alive(0, 0)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(sleeper.pid, ticks), "a zombie records nothing"


def test_sweep_removes_the_dead_and_spares_the_living(
    tmp_path: Path, dead: tuple[int, int]
) -> None:
    session = create(tmp_path, 1, {})
    assert sessions.sweep(tmp_path) == 0
    own(session, *dead)
    assert sessions.sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_sweep_spares_what_a_reused_pid_does_not_own(tmp_path: Path) -> None:
    session = create(tmp_path, 1, {})
    pid, ticks = identity()
    own(session, pid, ticks - 1)
    assert sessions.sweep(tmp_path) == 1


def test_sweep_waits_for_exporter_and_producers(
    tmp_path: Path, dead: tuple[int, int], sleeper: subprocess.Popen[bytes]
) -> None:
    session = create(tmp_path, 1, {})
    own(session, *dead)
    session._set(sessions.C_EXPORTER_PID, sleeper.pid)
    session._set(sessions.C_EXPORTER_TICKS, start_ticks(sleeper.pid))
    assert sessions.sweep(tmp_path) == 0, "its exporter still drains it"
    session._set(sessions.C_EXPORTER_PID, 0)
    ring = Ring(session.folder / "process-1.ring", 1 << 16)
    assert sessions.sweep(tmp_path) == 0, "this process records into it"
    assert ring.path.exists()
    ring.path.unlink()
    assert sessions.sweep(tmp_path) == 1


def test_sweep_removes_what_was_never_finished(tmp_path: Path, dead: tuple[int, int]) -> None:
    """Killed between mkdir and the control page: the name still says whose it was."""
    half = tmp_path / f"codesign-{dead[0]}-{dead[1]}"
    half.mkdir(mode=0o700)
    pid, ticks = identity()
    being_made = tmp_path / f"codesign-{pid}-{ticks}"
    being_made.mkdir(mode=0o700)
    foreign = tmp_path / "codesign-notes"
    foreign.mkdir()
    assert sessions.sweep(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == sorted([being_made, foreign])


def test_two_sessions_do_not_meet(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vllm_codesign.recorder.session import create;"
        "s = create(Path(sys.argv[1]), 2, {}); print(s.folder, flush=True); input()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        folders = {process.stdout.readline().strip() for process in processes if process.stdout}
        found = list(sessions.sessions(tmp_path))
        assert {str(s.folder) for s in found} == folders
        assert {s.owner[0] for s in found} == {process.pid for process in processes}
        assert all(sessions.live(s) for s in found)
        found[0].level = 0
        assert [s.level for s in sessions.sessions(tmp_path)] == [0, 2]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sessions.sweep(tmp_path) == 2
