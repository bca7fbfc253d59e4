"""`codesign view` in a real browser: the same page, of a capture that grows while it is open."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser.conftest import REQUESTS, SHOTS
from tests.support.browser import Page
from tests.support.busy_capture import bench, request, write
from tests.support.traces import RESOURCE
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.writer import SegmentWriter

GROWS_S = 20.0
"""The page asks every 3 s."""
FIGURES_S = 60.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    url: str
    said: str
    capture: Capture
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def server(
    requests: list[RequestTrace], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("view")
    capture = write(folder / "capture", requests)
    (folder / "results.json").write_text(bench(requests).model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm_codesign.cli.main", "view", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        url = re.match(r"http://127\.0\.0\.1:\d+/", said)
        assert url is not None, said
        yield Server(url[0], said, capture, process)
    finally:
        process.kill()
        process.wait()


def status(page: Page) -> str:
    return str(page.evaluate("document.getElementById('status').textContent"))


def append(capture: Capture, *found: RequestTrace) -> None:
    writer = SegmentWriter(capture.traces)
    for trace in found:
        writer.add(trace.spans, RESOURCE)
    writer.close()


def test_it_prints_where_it_is(server: Server) -> None:
    assert server.said == f"{server.url} serves {server.capture.path}; end it with Ctrl-C\n"


def test_requests_are_found_before_the_figures_are_made(
    server: Server, page: Page, requests: list[RequestTrace]
) -> None:
    page.open(server.url)
    assert status(page) == "1,000 requests"
    page.evaluate("document.getElementById('text').focus()")
    page.type("agent-16")
    page.wait("document.getElementById('status').textContent === '58 requests found'")
    page.evaluate("document.querySelectorAll('#list tbody button')[2].click()")
    trace = page.evaluate("document.querySelectorAll('#list tbody tr')[2].dataset.trace")
    page.wait(f"document.getElementById('detail').textContent.includes('{trace}')")
    spans = page.evaluate("document.querySelectorAll('#waterfall tr.span').length")
    (opened,) = [t for t in requests if f"{t.trace_id:032x}" == trace]
    assert spans == len(opened.spans)
    page.wait("document.querySelector('#detail details summary')")
    assert page.complaints == []
    assert {url.split("?")[0] for url in page.requested} <= {
        server.url,
        f"{server.url}figures",
        f"{server.url}api/state",
        f"{server.url}api/requests",
        *(url for url in page.requested if url.startswith(f"{server.url}api/request/")),
    }


def test_figures_come_when_they_are_made(server: Server, page: Page) -> None:
    page.open(server.url)
    page.wait("document.documentElement.dataset.figures", FIGURES_S)
    assert page.evaluate("document.querySelector('.finding').textContent").startswith(
        "Host exposed 48 % of the waiting time at 16 clients (latency, per request); 24 of these"
    )
    assert page.evaluate("document.getElementById('figures').ariaBusy") == "false"
    page.screenshot(SHOTS / "view.png", whole=False)
    assert page.complaints == []


def test_new_segments_appear_by_themselves(server: Server, page: Page) -> None:
    page.open(server.url)
    page.wait("document.documentElement.dataset.figures", FIGURES_S)
    page.evaluate("new Promise(done => setTimeout(done, 3500))")
    append(server.capture, *(request(number) for number in range(REQUESTS, REQUESTS + 7)))
    page.wait("document.getElementById('status').textContent === '1,007 requests'", GROWS_S)
    assert page.evaluate("document.getElementById('grown').textContent") == "1,007 requests by now."
    assert page.evaluate("document.getElementById('anew').disabled") is False
    assert "1000 traces" in page.evaluate("document.getElementById('figures').textContent")
    page.evaluate(
        "delete document.documentElement.dataset.figures; document.getElementById('anew').click()"
    )
    page.wait("document.documentElement.dataset.figures", FIGURES_S)
    assert "7 traces: 7 completed" in page.evaluate(
        "document.getElementById('figures').textContent.replace(/\\s+/g, ' ')"
    ), "they are nobody's in the client's results"
    assert page.complaints == []


def test_another_sites_name_is_refused(server: Server) -> None:
    for path in ("", "api/requests"):
        asked = urllib.request.Request(server.url + path, headers={"Host": "rebound.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(asked, timeout=10)


def test_it_ends_when_it_is_told_to(server: Server) -> None:
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 130
