"""The exporter as a process: started, fed by a server, ended with it or by a signal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_codesign.exporter.__main__ import main
from vllm_codesign.recorder.session import Session, join
from vllm_codesign.store.capture import latest
from vllm_codesign.store.reader import read_traces

# A server: makes the session and a ring, records what it is told, ends when told.
SERVER = """
import sys, time
from pathlib import Path
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Ending, Field, Kind
from vllm_codesign.recorder.session import create
made = create(Path(sys.argv[1]), 1, {"started_unix_ns": time.time_ns(), "vllm": "0.32.0",
    "codesign": "0.1.0", "python": "3.11.7", "level": "request", "argv": ["vllm", "serve", "m"]})
made.write_json("process-1.hooks.json", {"pid": 1, "roles": ["api_server"], "hooks": [
    {"id": "a.row", "table": "t", "status": "installed", "target": "m:f", "detail": ""}]})
active.activate(made, "process", 1 << 16)
print(made.folder, flush=True)
for line in sys.stdin:
    word, _, key = line.strip().partition(" ")
    key, now = int(key or 0), time.monotonic_ns()
    if word == "begin":
        active.emit(Kind.ROOT_BEGIN, key, now, now, 7, 0, 1, 1)
        active.emit(Kind.ROOT_PARENT, key, 0, key, key, 0, 1, 0)
        active.emit_string(key, Field.MODEL, "modèle")
    elif word == "end":
        active.emit(Kind.ROOT_END, key, now, now, 200, 0, 0, Ending.COMPLETE)
    print(word, flush=True)
"""


class Server:
    def __init__(self, shm: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(shm)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.folder = Path(self.process.stdout.readline().strip())

    def tell(self, line: str) -> None:
        """Returns when it is recorded."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == line.split()[0] + "\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    if made.process.poll() is None:
        made.kill()


Start = Callable[..., subprocess.Popen[str]]

CODE = """
import sys
from pathlib import Path
from vllm_codesign.exporter import serve
serve.TERM_GRACE_S = float(sys.argv[2])
sys.exit(serve.serve(Path(sys.argv[1])))
"""


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(term_grace_s: float = 10, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, str(server.folder), str(term_grace_s)],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "CODESIGN_STORE": str(tmp_path / "store"),
                "CODESIGN_METRICS_PORT": "0",
                **environ,
            },
        )
        started.append(process)
        session = join(server.folder)
        wait_until(lambda: session.exporter[0] == process.pid)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def outcomes(store: Path) -> dict[int, object]:
    return {
        trace.trace_id: trace.root.attributes["codesign.outcome"]
        for trace in read_traces(latest(store))
    }


def test_a_run_from_start_to_end(server: Server, start: Start, tmp_path: Path) -> None:
    """One request before the exporter comes, one while it runs, one that its server kills."""
    server.tell("begin 1")
    server.tell("end 1")
    process = start(CODESIGN_KEEP_RECORDS="1")
    server.tell("begin 2")
    server.tell("end 2")
    server.tell("begin 3")
    server.kill()
    killed = time.monotonic()
    assert ended(process) == (0, "")
    assert time.monotonic() - killed < 5
    assert not server.folder.exists()
    store = tmp_path / "store"
    assert outcomes(store) == {1: "completed", 2: "completed", 3: "failed"}
    run = latest(store).load()
    assert (run.complete, run.level, run.drops, run.pid) == (
        True,
        "request",
        {},
        server.process.pid,
    )
    assert run.versions == {"codesign": "0.1.0", "vllm": "0.32.0", "python": "3.11.7"}
    assert run.settings["argv"] == ["vllm", "serve", "m"]
    assert [(h.row, h.role, h.status) for h in run.hooks] == [
        ("t/a.row", "api_server", "installed")
    ]
    assert run.anchors
    assert run.finished_ns is not None
    assert run.finished_ns > run.started_ns
    wanted = {
        "records": 11,
        "requests": 3,
        "records_lost": 0,
        "hook_errors": 0,
        "orphan_records": 0,
    }
    assert {name: run.counters[name] for name in wanted} == wanted
    assert list((latest(store).path / "records").iterdir()) != []
    assert [p for p in (store, *store.rglob("*")) if p.stat().st_mode & 0o077] == []


def test_terminated_together_with_its_server(server: Server, start: Start, tmp_path: Path) -> None:
    """A service manager signals both; the server's last words come after the signal."""
    process = start()
    server.tell("begin 1")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    server.tell("end 1")
    time.sleep(0.3)
    assert process.poll() is None
    server.kill()
    assert ended(process) == (0, "")
    assert outcomes(tmp_path / "store") == {1: "completed"}


def test_terminated_alone_it_asks_to_be_started_again(
    server: Server, start: Start, tmp_path: Path
) -> None:
    process = start(term_grace_s=0.2)
    server.tell("begin 1")
    server.tell("end 1")
    server.tell("begin 2")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (75, "")
    assert server.folder.exists()
    assert outcomes(tmp_path / "store") == {1: "completed"}
    assert not latest(tmp_path / "store").load().complete
    second = start()
    server.tell("begin 3")
    server.tell("end 3")
    server.kill()
    assert ended(second)[0] == 0
    run = latest(tmp_path / "store").load()
    assert outcomes(tmp_path / "store") == {1: "completed", 3: "completed"}
    assert run.complete
    assert run.counters["exporter_starts"] == 2
    assert run.counters["requests_lost"] == 1, "the open one went with the first exporter"


def test_without_a_store_and_without_otlp_it_still_drains(
    server: Server, start: Start, tmp_path: Path
) -> None:
    process = start(CODESIGN_STORE="")
    for key in range(2000):  # twice what the ring of 64 KiB holds
        server.tell(f"end {key}")
    server.kill()
    assert ended(process) == (0, "")
    assert not (tmp_path / "store").exists()


def test_what_is_no_session(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vllm_codesign.exporter", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "is no session of a running server" in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_is_not_for_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["exporter"])
    assert main() == 2
    assert "vLLM starts it by itself" in capsys.readouterr().err


def test_session_of_the_server_is_seen_alike(server: Server) -> None:
    session: Session = join(server.folder)
    assert session.owner[0] == server.process.pid
