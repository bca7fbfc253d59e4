"""What `codesign view` answers, without a browser."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from click.testing import CliRunner

from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.cli import view
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.report.fragment import Maker, Stopped, fragment
from vllm_codesign.report.served import Served

Client = TestClient  # type: ignore[type-arg]


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    traces.write_capture(tmp_path / "capture")
    (tmp_path / "results.json").write_text(traces.bench_run().model_dump_json())
    return tmp_path


@pytest.fixture
async def client(demo: Path) -> AsyncIterator[Client]:
    async with TestClient(TestServer(Served(demo, None).application())) as client:
        yield client


async def test_the_page_has_no_request_in_it(client: Client) -> None:
    answer = await client.get("/")
    text = await answer.text()
    assert answer.status == 200
    assert '"requests":' not in text
    assert "<option>completed</option>" in text
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"


async def test_requests_in_pages(client: Client) -> None:
    answer = await client.get("/api/requests", params={"text": "conc4", "limit": 2, "offset": 1})
    found = await answer.json()
    assert found["total"] == 20
    slowest = sorted((t.root for t in traces.traces()[20:]), key=lambda r: -r.duration_ns)[1]
    assert len(found["entries"]) == 2
    assert found["entries"][0]["duration_ns"] == slowest.duration_ns
    assert found["entries"][0]["scenario"] == "conc4"
    assert found["entries"][0]["start_us"] * 1_000 // 10**6 == slowest.start_ns // 10**6


async def test_one_request(client: Client) -> None:
    root = traces.traces()[30].root
    answer = await client.get(f"/api/request/{root.trace_id:032x}/{root.span_id:016x}")
    found = await answer.json()
    document = found["document"]
    assert document[0] == f"{root.trace_id:032x}"
    assert found["names"][document[4]] == "conc4"
    assert [found["names"][s[1]] for s in document[8]][:2] == [root.name, S.HTTP_RECEIVE.name]
    assert found["colours"][found["names"].index("prefill")] == "#2a9df4"


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/request/1/2", 404, "no request 0000000000000002 of trace"),
        ("/api/requests?order=sideways", 400, "'sideways' is not a valid Order"),
        ("/api/requests?limit=many", 400, "order, limit or offset is not one"),
        ("/etc/passwd", 404, ""),
    ],
)
async def test_what_is_not_there(client: Client, path: str, status: int, said: str) -> None:
    answer = await client.get(path)
    assert answer.status == status
    assert said in await answer.text()
    assert "Content-Security-Policy" in answer.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_it_only_reads(client: Client, method: str) -> None:
    assert (await client.request(method, "/api/requests")).status == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("[::1]:80", 200), ("127.0.0.1.evil.example", 403), ("evil", 403)],
)
async def test_only_this_machines_names_are_answered(
    client: Client, host: str, status: int
) -> None:
    assert (await client.get("/api/state", headers={"Host": host})).status == status


async def test_figures_are_made_once_for_the_same_segments(client: Client) -> None:
    first = await (await client.get("/figures")).text()
    assert first is not None
    assert "conc4" in first
    assert "Where the time went" in first
    assert await (await client.get("/figures")).text() == first


async def test_figures_that_are_given_up_are_said_to_be(demo: Path) -> None:
    maker = Maker(demo / "capture", demo / "results.json")
    making = asyncio.ensure_future(maker.make())
    children = await _started()
    maker.end()
    with pytest.raises(Stopped, match="ended with -9"):
        await making
    assert not _children() & children
    with pytest.raises(Stopped, match="the server is ending"):
        await maker.make()


async def test_figures_in_the_making_do_not_hold_up_the_end(demo: Path) -> None:
    served = Served(demo, None)
    async with TestClient(TestServer(served.application())) as client:
        asked = asyncio.ensure_future(client.get("/figures"))
        children = await _started()
        served._maker.end()
        answer = await asked
        assert answer.status == 503
        assert "no figures: the process that makes them ended" in await answer.text()
    assert not _children() & children


async def test_figures_are_not_made_for_a_server_that_was_killed(demo: Path) -> None:
    """A capture that is never read to its end: its segments are pipes that nobody writes to."""
    for segment in (demo / "capture").glob("*/traces/*.parquet"):
        segment.unlink()
        os.mkfifo(segment)
    made_in = "import sys, asyncio; from pathlib import Path; "
    made_in += "from vllm_codesign.report.fragment import Maker; "
    made_in += "asyncio.run(Maker(Path(sys.argv[1]), None).make())"
    server = subprocess.Popen([sys.executable, "-c", made_in, str(demo / "capture")])
    try:
        (maker,) = await _started(server.pid)
        # The thread that looks for the server has looked, found it, and looks again.
        await _until(
            lambda: len(list(Path("/proc", maker, "task").iterdir())) > 1, "a second thread"
        )
        await asyncio.sleep(1.5)
        assert Path("/proc", maker).exists()
    finally:
        server.kill()
        server.wait()
    try:
        await _until(lambda: not Path("/proc", maker).exists(), "its end")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(maker), signal.SIGKILL)


async def _until(come: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not come():
        assert time.monotonic() < deadline, f"{what} did not come"
        await asyncio.sleep(0.05)


async def _started(server: int | None = None) -> set[str]:
    """`_children`, as soon as there is one."""
    await _until(lambda: bool(_children(server)), "a process that makes figures")
    return _children(server)


def _children(server: int | None = None) -> set[str]:
    """Live processes that this one, or `server`, has started to make figures."""
    found = set()
    server = server or os.getpid()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            line = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == server and state not in "ZX" and b"report.fragment" in line:
            found.add(stat.parent.name)
    return found


def test_figures_of_a_capture_without_a_request_say_so(tmp_path: Path) -> None:
    capture = traces.write_capture(tmp_path, [])
    text = fragment(capture.path, None)
    assert re.search(r'role="alert">no request in .* yet: segments close after 10 s', text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{}/nothing",), "/nothing does not exist"),
        (("{}", "--results", "{}/none.json"), "cannot read"),
        (("{}", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1 port 0: Cannot assign"),
        (("{}", "--host", "no.such.host.invalid"), "cannot listen on no.such.host.invalid"),
    ],
)
def test_bad_input_is_one_line(demo: Path, arguments: tuple[str, ...], said: str) -> None:
    asked = [each.format(demo) for each in arguments]
    result = CliRunner().invoke(view.command, asked)
    assert isinstance(result.exception, CodesignError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(view.command, ["--help"])
    assert "codesign view out/demo --port 8700" in result.output
