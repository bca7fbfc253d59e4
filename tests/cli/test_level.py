"""`codesign level` shows and switches live servers, and nothing else."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_codesign.cli.live import Server, age
from vllm_codesign.cli.main import main
from vllm_codesign.recorder.session import create, sessions

Serve = Callable[..., Any]


def levels(shm: Path) -> dict[int, int]:
    return {session.owner[0]: session.level for session in sessions(shm)}


def test_nobody_is_live(shm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["level"]) == 0
    assert capsys.readouterr().out == f"no live server of yours under {shm}\n"
    assert main(["level", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["level", "step"]) == 1
    assert capsys.readouterr().err == (
        f"codesign: no live server of yours under {shm}: start one with VLLM_PLUGINS=codesign "
        "vllm serve ... (CODESIGN_LEVEL must not be off)\n"
    )


def test_an_ended_server_is_not_live(shm: Path, serve: Serve) -> None:
    server = serve("vllm", "serve")
    server.stop()
    assert main(["level", "step"]) == 1
    assert levels(shm) == {server.pid: 1}


def test_list(shm: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    # The ring of 32 KiB holds 448 records.
    server = serve(
        "/opt/bin/vllm", "serve", "a/model", records=500, started_unix_ns=time.time_ns() - 10**10
    )
    assert main(["level", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    started = document.pop("started_unix_ns")
    assert 9e9 < time.time_ns() - started < 60e9
    assert document.pop("session").startswith(f"{shm}/codesign-{server.pid}-")
    assert document == {
        "pid": server.pid,
        "level": "request",
        "model": "a/model",
        "argv": ["/opt/bin/vllm", "serve", "a/model"],
        "processes": [server.pid],
        "exporter_pid": None,
        "exporter_starts": 0,
        "records_lost": {"req": 52},
        "requests_lost": 0,
        "hook_errors": 1,
    }
    assert main(["level"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["pid", "started", "level", "model", "exporter", "lost"]
    words = row.split()
    assert words[0] == str(server.pid)
    assert words[2:] == ["s", "ago", "request", "a/model", "none", "52", "records"]


@pytest.mark.parametrize(("name", "number"), [("off", 0), ("request", 1), ("step", 2)])
def test_all_servers_are_switched(shm: Path, serve: Serve, name: str, number: int) -> None:
    pids = [serve("vllm", "serve").pid for _ in range(2)]
    assert main(["level", name]) == 0
    assert levels(shm) == dict.fromkeys(pids, number)


@pytest.mark.parametrize("which", ["pid", "child"])
def test_one_server_by_any_of_its_processes(shm: Path, serve: Serve, which: str) -> None:
    one, other = serve("vllm", "serve"), serve("vllm", "serve")
    assert main(["level", "off", "--pid", str(getattr(one, which))]) == 0
    assert levels(shm) == {one.pid: 0, other.pid: 1}


@pytest.mark.parametrize("arguments", [[], ["off"]])
def test_unknown_pid(
    shm: Path, serve: Serve, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    server = serve("vllm", "serve")
    assert main(["level", *arguments, "--pid", str(os.getpid())]) == 1
    assert capsys.readouterr().err == (
        f"codesign: process {os.getpid()} belongs to no live server of yours that is traced; "
        "`codesign level` lists those\n"
    )
    assert levels(shm) == {server.pid: 1}


def test_bad_level(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["level", "loud"]) == 2
    assert "'loud' is not one of 'off', 'request', 'step'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (("/usr/bin/vllm", "serve", "Qwen/Q", "--port", "1"), "Qwen/Q"),
        (("api_server.py", "--model", "Qwen/Q"), "Qwen/Q"),
        (("api_server.py", "--model=Qwen/Q", "-x"), "Qwen/Q"),
        (("/a/b/script.py", "--x"), "script.py --x"),
        (("x" * 80,), "x" * 59 + "…"),
        ((), ""),
    ],
)
def test_what_a_server_is_called(tmp_path: Path, argv: tuple[str, ...], what: str) -> None:
    session = create(tmp_path, 1, {})
    assert Server(session, 1, 0, argv, (), 0, {}, 0).what == what


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 s ago"), (61, "1 min ago"), (7300, "2 h ago"), (200_000, "2 d ago"), (-9, "0 s ago")],
)
def test_age(monkeypatch: pytest.MonkeyPatch, seconds: int, text: str) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    assert age(10**18 - seconds * 10**9) == text
    assert age(0) == "?"
