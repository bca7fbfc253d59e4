"""Ctrl-C, which a terminal sends to every process of the command: 130 and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import traces

ROOT = Path(__file__).parents[2]
# A shell starts its background jobs with the interrupt ignored, and so may whoever runs this.
_MAIN = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from vllm_codesign.cli import main; {}; sys.exit(main.main(sys.argv[1:]))"
)


@contextmanager
def started(*arguments: str, prepared: str = "") -> Iterator[subprocess.Popen[str]]:
    """`codesign` in a process group of its own, as a shell starts it; all of it ends here."""
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN.format(prepared or "pass"), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Status and standard error after a Ctrl-C."""
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    return process.returncode, said


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    traces.write_capture(tmp_path / "capture")
    (tmp_path / "results.json").write_text(traces.bench_run().model_dump_json())
    return tmp_path


def below(pid: int) -> list[int]:
    """Live processes that this one has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def asked_for_figures(url: str) -> threading.Thread:
    """Asks, however it ends: the server goes away."""

    def ask() -> None:
        with suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"{url}figures", timeout=30).close()

    asking = threading.Thread(target=ask)
    asking.start()
    return asking


def made_by(process: subprocess.Popen[str]) -> list[int]:
    """`below`, as soon as there is one."""
    deadline = time.monotonic() + 60
    while not (found := below(process.pid)):
        assert time.monotonic() < deadline, "it started no process"
        time.sleep(0.01)
    return found


def test_a_view_that_makes_figures(demo: Path) -> None:
    with started("view", str(demo)) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        asking = asked_for_figures(url)
        making = made_by(process)
        assert interrupted(process) == (130, "")
        asking.join(30)
        assert not any(Path(f"/proc/{pid}").exists() for pid in making)


def test_a_view_that_waits(demo: Path) -> None:
    with started("view", str(demo)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert interrupted(process) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_view_that_is_ended_takes_its_makers_of_figures_along(
    demo: Path, number: signal.Signals
) -> None:
    # Whoever runs this may have started it under nohup.
    heard = "signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    with started("view", str(demo), prepared=heard) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        asking = asked_for_figures(url)
        making = made_by(process)
        # To it alone, as `kill` does.
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")
        asking.join(30)
        assert not any(Path(f"/proc/{pid}").exists() for pid in making)


def test_a_view_that_outlives_its_terminal(demo: Path) -> None:
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with started("view", str(demo), prepared=ignored) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        process.send_signal(signal.SIGHUP)
        with urllib.request.urlopen(f"{url}api/state", timeout=30) as answer:
            assert answer.status == 200
        assert interrupted(process) == (130, "")


# A command that says when it is at it, in DuckDB and in Python.
# Short queries, one after the other: DuckDB may not notice before a long one of one task ends.
_QUERY = "SELECT max(hash(range)) FROM range(20000000)"
_AT_WORK = {
    "DuckDB": (
        "from vllm_codesign.store.reader import database\nconnection = database()\n"
        f"while True: connection.execute('{_QUERY}').fetchall()"
    ),
    "Python": "while True: pass",
}


def test_a_bench(tmp_path: Path) -> None:
    prepared = (
        "import asyncio\n"
        "import vllm_codesign.cli.bench as c\n"
        "async def busy(*_, **__):\n"
        "    print('at work', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "c.execute = busy\n"
    )
    asked = ("bench", "--url", "http://127.0.0.1:1", "--out", str(tmp_path))
    with started(*asked, prepared=f"exec({prepared!r})") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        status, said = interrupted(process)
    assert (status, said.split()) == (130, ["codesign:", "interrupted"])


@pytest.mark.parametrize("where", _AT_WORK)
@pytest.mark.parametrize("command", ["analyze", "report"])
def test_a_command_that_reads(command: str, where: str, demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    prepared = (
        f"import vllm_codesign.cli.{command} as c\n"
        "def busy(*_, **__):\n"
        "    print('at work', flush=True)\n"
        f"    exec({_AT_WORK[where]!r})\n"
        "c.overview = busy\n"
    )
    more = ("--out", str(out)) if command == "report" else ()
    with started(command, str(demo), *more, prepared=f"exec({prepared!r})") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        time.sleep(0.3)
        status, said = interrupted(process)
    assert (status, said.split()) == (130, ["codesign:", "interrupted"])
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["capture", "results.json"]
