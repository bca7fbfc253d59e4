import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support import fake_vllm_command
from vllm_codesign.bench.server import VllmServer
from vllm_codesign.model.errors import CodesignError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path, monkeypatch):
    python = fake_vllm_command.write(tmp_path)
    monkeypatch.setattr("vllm_codesign.bench.server._ORPHAN_S", 0.2)
    monkeypatch.setattr("vllm_codesign.bench.server._TERMINATE_S", 0.5)

    def make(behaviour: str = "", **options: object) -> VllmServer:
        monkeypatch.setenv("FAKE_VLLM", behaviour)
        lines: list[str] = []
        made = VllmServer(
            "tiny",
            python=python,
            log_path=tmp_path / "server.log",
            progress=lines.append,
            **options,
        )
        made.lines = lines
        return made

    return make


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def child_of(server: VllmServer) -> int:
    line = next(x for x in server.log_path.read_text().splitlines() if x.startswith("child "))
    return int(line.split()[1])


def test_it_is_healthy_inside_and_gone_afterwards(start):
    server = start(flags=["--enforce-eager"])
    with server:
        pid = server.pid
        with urllib.request.urlopen(f"{server.url}/health") as response:
            assert response.status == 200
        assert server.running
        assert os.getpgid(pid) == pid != os.getpgid(0)

    assert server.command[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", "tiny"]
    assert server.command[-1] == "--enforce-eager"
    assert not server.running
    assert not alive(pid)
    assert server.lines[0].startswith("starting vLLM")
    assert server.lines[-1].startswith("vLLM is up after")
    server.stop()  # a second time does nothing


def test_the_environment_adds_and_defaults_do_not_override(start, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    with start(env={"EXTRA": "1"}) as server:
        environment = Path(f"/proc/{server.pid}/environ").read_text().split("\0")

    assert {"EXTRA=1", "VLLM_CPU_KVCACHE_SPACE=4", "HF_HUB_OFFLINE=1"} <= set(environment)


def test_a_server_that_dies_early_is_one_line_with_the_cause_and_the_log(start):
    server = start("die")
    with pytest.raises(CodesignError) as error:
        server.start()

    line = str(error.value)
    assert "exit 3" in line
    assert "ValueError: no such model" in line  # not its consequence
    assert str(server.log_path) in line
    assert "\n" not in line


def test_a_server_that_is_never_healthy_is_stopped(start, monkeypatch):
    monkeypatch.setattr("vllm_codesign.bench.server._PROGRESS_EVERY_S", 0.3)
    # Long enough for the child to be logged on a machine that has other work.
    server = start("slow,child", timeout_s=6.0)
    with pytest.raises(CodesignError, match="not healthy after 6 s"):
        server.start()

    assert not server.running
    assert not alive(child_of(server))
    assert any("child" in line or "loading" in line for line in server.lines[1:])


def test_what_does_not_listen_is_killed_with_its_children(start):
    server = start("deaf,child")
    server.start()
    pid, child = server.pid, child_of(server)
    assert alive(child)

    begun = time.monotonic()
    server.stop(grace_s=0.3)

    assert time.monotonic() - begun < 3
    assert not alive(pid)
    assert not alive(child)


def test_an_exception_inside_stops_it(start):
    with pytest.raises(KeyboardInterrupt), start("child") as server:  # noqa: PT012
        pid, child = server.pid, child_of(server)
        raise KeyboardInterrupt

    assert not alive(pid)
    assert not alive(child)


def test_an_interrupt_while_it_starts_stops_it(start, monkeypatch):
    server = start("slow,child")
    seen = []

    def interrupt(_url: str) -> bool:
        if server.log_path.exists() and "child" in server.log_path.read_text():
            seen.append(server.pid)
            os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr("vllm_codesign.bench.server._healthy", interrupt)
    # A shell starts its background jobs with the interrupt ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            server.start()
    finally:
        signal.signal(signal.SIGINT, before)

    assert not alive(seen[0])
    assert not alive(child_of(server))


def test_a_killed_parent_takes_the_server_with_it(tmp_path):
    python = fake_vllm_command.write(tmp_path)
    code = (
        "import time; from pathlib import Path; from vllm_codesign.bench.server import VllmServer\n"
        f"s = VllmServer('m', python={str(python)!r}, log_path=Path({str(tmp_path / 'log')!r}))\n"
        "s.start(); print(s.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()

    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


@pytest.mark.parametrize("flag", ["--port", "--port=1", "--host=0.0.0.0"])
def test_the_address_is_not_the_callers(start, flag):
    with pytest.raises(CodesignError, match="leave the flag out"):
        start(flags=[flag])


def test_a_python_that_is_not_there(tmp_path):
    server = VllmServer("m", python=tmp_path / "none", log_path=tmp_path / "log")
    with pytest.raises(CodesignError, match="name a Python that has vLLM"):
        server.start()
