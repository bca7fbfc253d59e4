"""Looking for contention: only where it is asked for, and never at vLLM's expense."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hooks.conftest import Recording
from vllm_codesign.hooks import gil, session_start
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record


class Knocker:
    """As gilknocker 0.4.2's `KnockKnock`."""

    def __init__(self, **intervals: int) -> None:
        self.intervals = intervals
        self.calls: list[str] = []
        self.contention_metric = 0.25
        self.broken = False

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def reset_contention_metric(self) -> None:
        if self.broken:
            raise ValueError("channel is closed")
        self.calls.append("reset")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def knockers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Knocker]]:
    made: list[Knocker] = []

    def make(**intervals: int) -> Knocker:
        made.append(Knocker(**intervals))
        return made[-1]

    monkeypatch.setitem(sys.modules, "gilknocker", SimpleNamespace(KnockKnock=make))  # type: ignore[arg-type]
    monkeypatch.setattr(gil, "installed", lambda: True)
    monkeypatch.setattr(gil, "INTERVAL_S", 0.01)
    yield made
    active.deactivate()
    until(lambda: not gil._running)


def looks(recording: Recording) -> list[Record]:
    return [record for record in recording.take() if record.kind == Kind.GIL]


def test_one_record_an_interval(recording: Recording, knockers: list[Knocker]) -> None:
    gil.start()
    gil.start()
    found: list[Record] = []
    until(lambda: found.extend(looks(recording)) or len(found) >= 3)  # type: ignore[func-returns-value]
    (knocker,) = knockers
    assert {(record.a, record.b) for record in found} == {(250_000, 1_000_000)}
    for before, after in itertools.pairwise(found):
        assert before.t0 < before.t1 <= after.t0
    assert [t.daemon for t in threading.enumerate() if t.name == "codesign-gil"] == [True]
    assert knocker.calls[:3] == ["start", "reset", "reset"]


def test_nobody_knocks_while_the_level_is_off(
    recording: Recording, knockers: list[Knocker]
) -> None:
    gil.start()
    until(lambda: looks(recording) != [])
    recording.session.level = 0
    until(lambda: knockers[0].calls[-1] == "stop")
    looks(recording)
    time.sleep(0.05)
    assert looks(recording) == []
    recording.session.level = 1
    until(lambda: looks(recording) != [])
    assert knockers[0].calls.count("start") == 2


def test_it_ends_with_the_ring(recording: Recording, knockers: list[Knocker]) -> None:
    gil.start()
    until(lambda: bool(knockers[0].calls))
    active.deactivate()
    until(lambda: not gil._running)
    assert knockers[0].calls[-1] == "stop"


def test_a_knocker_that_breaks_is_said_once(
    recording: Recording, knockers: list[Knocker], caplog: pytest.LogCaptureFixture
) -> None:
    gil.start()
    until(lambda: looks(recording) != [])
    knockers[0].broken = True
    until(lambda: not gil._running)
    assert [r.getMessage() for r in caplog.records] == [
        "codesign: no more GIL contention: ValueError: channel is closed"
    ]
    assert recording.ring.errors == 1


def test_a_forked_child_begins_for_itself(recording: Recording, knockers: list[Knocker]) -> None:
    gil.start()
    until(lambda: gil._running)
    pid = os.fork()
    if pid == 0:
        os._exit(1 if gil._running else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_without_the_package_nothing_happens(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gilknocker", None)
    monkeypatch.setattr(gil, "installed", lambda: False)
    gil.start()
    assert not gil._running


def test_a_package_that_does_not_load_is_a_warning(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gil, "installed", lambda: True)
    monkeypatch.setitem(sys.modules, "gilknocker", SimpleNamespace())  # type: ignore[arg-type]
    gil.start()
    assert not gil._running
    assert "no GIL contention: AttributeError" in caplog.text


@pytest.fixture
def asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> Iterator[list[str]]:
    """A process that becomes an API server in a session of its own, without an exporter."""
    monkeypatch.setenv("CODESIGN_GIL", "1")
    monkeypatch.setenv("CODESIGN_SHM", str(tmp_path))
    monkeypatch.setenv("CODESIGN_SESSION", "")
    monkeypatch.setattr(session_start, "_keep_exporter", lambda _: None)
    monkeypatch.setattr(session_start, "_roles", [])
    monkeypatch.setattr(session_start, "_joined", None)
    monkeypatch.setattr(session_start, "_gave_up", False)
    caplog.set_level(logging.WARNING)
    active.deactivate()
    started: list[str] = []
    monkeypatch.setattr(gil, "start", lambda: started.append("gil"))
    yield started
    active.deactivate()


def test_a_role_starts_it_where_it_is_asked_for(
    asked_for: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gil, "installed", lambda: True)
    session_start.take_role("api_server")
    session_start.take_role("engine_core")
    assert asked_for == ["gil"], "once per process"
    assert caplog.text == ""


def test_a_missing_package_is_one_line_with_the_cure(
    asked_for: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gil, "installed", lambda: False)
    session_start.take_role("api_server")
    session_start.take_role("worker")
    assert active.is_active(), "the server goes on, traced"
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.endswith("pip install gilknocker")


def test_nobody_asked(asked_for: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODESIGN_GIL", "0")
    session_start.take_role("api_server")
    assert asked_for == []


def test_the_real_one_tells_a_busy_thread_from_an_idle_process(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gilknocker")
    monkeypatch.setattr(gil, "INTERVAL_S", 0.5)
    gil.start()
    found: list[Record] = []
    until(lambda: found.extend(looks(recording)) or len(found) >= 2)  # type: ignore[func-returns-value]
    assert found[-1].a < 100_000
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        pass
    busy = looks(recording)
    active.deactivate()
    until(lambda: not gil._running)
    assert max(record.a for record in busy) > 150_000
