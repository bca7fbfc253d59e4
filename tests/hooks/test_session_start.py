"""Which session a process records into: its parent's, or one of its own."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_codesign import settings
from vllm_codesign.hooks import session_start
from vllm_codesign.hooks.installer import Installer
from vllm_codesign.hooks.session_start import start_or_join, take_role
from vllm_codesign.recorder import active, session
from vllm_codesign.recorder.process import identity
from vllm_codesign.recorder.reader import RingReader


@pytest.fixture(autouse=True)
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A process that has joined nothing yet, and whose exporter is nobody."""
    monkeypatch.setenv(settings.ENV_SHM, str(tmp_path))
    monkeypatch.setenv(settings.ENV_SESSION, "")
    monkeypatch.setenv("CODESIGN_LEVEL", "request")
    monkeypatch.setattr(session_start, "_keep_exporter", lambda _: None)
    session_start._forget()
    active.deactivate()
    yield tmp_path
    session_start._forget()
    active.deactivate()


def test_the_first_process_starts_a_session_and_names_it(shm: Path) -> None:
    started = start_or_join()
    assert started is not None
    assert (started.owner, started.level) == (identity(), 1)
    assert os.environ[settings.ENV_SESSION] == str(started.folder)
    description = json.loads((started.folder / "session.json").read_text())
    assert description["level"] == "request"
    assert start_or_join() is started
    assert len(list(shm.iterdir())) == 1


def test_a_child_joins_its_parents(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = session.create(shm, 2, {})
    monkeypatch.setenv(settings.ENV_SESSION, str(theirs.folder))
    joined = start_or_join()
    assert joined is not None
    assert (joined.folder, joined.level) == (theirs.folder, 2)


@pytest.mark.parametrize("left_over", ["/nowhere", "none:1:2", "none:x:y", "none:"])
def test_what_a_shell_has_left_over_is_not_joined(
    monkeypatch: pytest.MonkeyPatch, left_over: str
) -> None:
    monkeypatch.setenv(settings.ENV_SESSION, left_over)
    started = start_or_join()
    assert started is not None
    assert started.owner == identity()


def test_a_session_whose_owner_is_dead_is_not_joined(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = session.create(shm, 1, {})
    pid, ticks = identity()
    stale._set(session.C_OWNER_TICKS, ticks - 1)
    stale.folder = stale.folder.rename(shm / f"codesign-{pid}-{ticks - 1}")
    monkeypatch.setenv(settings.ENV_SESSION, str(stale.folder))
    started = start_or_join()
    assert started is not None
    assert started.folder != stale.folder
    assert not stale.folder.exists(), "swept"


def test_children_of_a_process_without_room_stay_silent(
    shm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pid, ticks = identity()
    monkeypatch.setenv(settings.ENV_SESSION, f"none:{pid}:{ticks}")
    assert start_or_join() is None
    take_role("worker")
    assert (caplog.records, list(shm.iterdir())) == ([], [])


def test_bad_settings_are_one_warning_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CODESIGN_RING_BYTES", "x")
    assert start_or_join() is not None
    start_or_join()
    (record,) = caplog.records
    assert record.getMessage().startswith("codesign: CODESIGN_RING_BYTES='x' is not a number")


def test_roles_and_hooks_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    installer = Installer()
    installer.install("session", session_start.HOOKS[:1])
    monkeypatch.setattr(session_start, "installer", installer)
    for role in ("engine_core", "worker", "worker"):
        take_role(role)
    assert active.session is not None
    (ring,) = active.session.rings()
    assert RingReader(ring).pid == os.getpid()
    report = json.loads((active.session.folder / f"process-{os.getpid()}.hooks.json").read_text())
    assert (report["pid"], report["roles"]) == (os.getpid(), ["engine_core", "worker"])
    assert [hook["id"] for hook in report["hooks"]] == ["session.async_llm"]


def test_enginecore_s_ring_is_larger_and_leaves_room(shm: Path) -> None:
    joined = start_or_join()
    assert joined is not None
    wanted, rings = 1 << 20, joined.folder
    assert session_start._ring_bytes(joined, "worker", wanted) == wanted
    assert session_start._ring_bytes(joined, "engine_core", wanted) == 4 * wanted
    (rings / "process-1.ring").write_bytes(b"")
    os.truncate(rings / "process-1.ring", 8 << 20)
    assert session_start._ring_bytes(joined, "engine_core", wanted) == 2 * wanted
    os.truncate(rings / "process-1.ring", 15 << 20)
    assert session_start._ring_bytes(joined, "engine_core", wanted) == wanted


def test_a_forked_child_takes_a_role_of_its_own(shm: Path) -> None:
    take_role("api_server")
    child = os.fork()
    if child == 0:
        take_role("engine_core")
        os._exit(0 if active.is_active() and session_start._roles == ["engine_core"] else 1)
    assert os.waitpid(child, 0)[1] == 0
    (folder,) = shm.iterdir()
    assert {path.name for path in folder.glob("*.ring")} == {
        f"process-{os.getpid()}.ring",
        f"process-{child}.ring",
    }
