import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SERVER = """
import json, os, subprocess, sys
from pathlib import Path
from vllm_codesign.recorder import active, layout, session
made = session.create(Path(sys.argv[1]), 1, json.loads(sys.argv[2]))
active.activate(made, "process", 1 << 15)
active.count_error()
for n in range(int(sys.argv[3])):
    active.emit(layout.Kind.REQ, n, n)
helper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(os.getpid(), helper.pid, flush=True)
sys.stdin.read()
helper.kill()
helper.wait()
"""


class FakeServer:
    """A process with a session and a ring, and a child that records nothing."""

    def __init__(self, shm: Path, description: dict[str, object], records: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(shm), json.dumps(description), str(records)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.pid, self.child = map(int, self.process.stdout.readline().split())

    def stop(self) -> None:
        self.process.communicate()


@pytest.fixture
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setenv("CODESIGN_SHM", str(folder))
    return folder


@pytest.fixture
def serve(shm: Path) -> Iterator[Callable[..., FakeServer]]:
    """Starts a fake server."""
    started: list[FakeServer] = []

    def start(*argv: str, records: int = 0, **description: object) -> FakeServer:
        server = FakeServer(shm, {"argv": list(argv), **description}, records)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()
