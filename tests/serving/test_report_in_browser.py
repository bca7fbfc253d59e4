"""The report and `codesign view` of a real run, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Browser, Page, executable, running
from tests.support.mixed_load import Sent
from tests.support.report_page import NUMBERED, check_bars, search
from tests.support.serving import REPOSITORY, Serving, Traces, read_all
from vllm_codesign import semconv as S
from vllm_codesign.analysis.overview import overview
from vllm_codesign.report.page import render
from vllm_codesign.store.capture import Capture

pytestmark = pytest.mark.vllm

SHOTS = REPOSITORY / "out" / "browser"
OPENED = 8
"""Requests whose bars are held against their spans, those with several choices first."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if (found := executable()) is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with running(found) as browser:
        yield browser


@pytest.fixture(scope="module")
def copy(
    browser: Browser,
    serving: Serving,
    mixed: tuple[list[Sent], Traces],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Capture, Traces]:
    """The capture as it is now, and what is in it."""
    capture = Capture(tmp_path_factory.mktemp("report") / "copy")
    shutil.copytree(
        serving.capture.path, capture.path, ignore=shutil.ignore_patterns(".*", "records")
    )
    return capture, read_all(capture)


def open_and_check(page: Page, found: Traces) -> None:
    """Opens requests by their trace id, and holds what is drawn against their spans."""
    several = sorted(
        (trace_id for trace_id, traces in found.by_id.items() if len(traces) == 1),
        key=lambda trace_id: -len(found.one(trace_id).named(S.DECODE.name)),
    )
    for trace_id in several[:OPENED]:
        search(page, trace_id)
        page.wait(f"({NUMBERED}).join() === '{trace_id}'")
        page.evaluate("document.querySelector('#list tbody button').click()")
        page.wait(f"document.getElementById('detail').textContent.includes('{trace_id}')")
        check_bars(page, found.one(trace_id))


def test_the_report(
    browser: Browser, copy: tuple[Capture, Traces], capsys: pytest.CaptureFixture[str]
) -> None:
    capture, found = copy
    out = capture.path / "report.html"
    out.write_text(render(overview(capture.path)), encoding="utf-8")
    page = browser.page()
    page.size(1280, 900)
    page.open(out.as_uri())
    drawn = page.evaluate("performance.getEntriesByName('codesign-drawn')[0].startTime")
    with capsys.disabled():
        print(
            f"\nreport of a real run, {len(found.all)} requests: "
            f"{out.stat().st_size / 1e6:.2f} MB, {drawn:.0f} ms to the first waterfall"
        )
    said = page.evaluate("document.getElementById('status').textContent")
    assert said == f"{len(found.all):,} requests"
    open_and_check(page, found)
    page.screenshot(SHOTS / "report-real.png")
    assert page.complaints == []
    assert page.requested == [out.as_uri()]


def test_view(browser: Browser, copy: tuple[Capture, Traces]) -> None:
    capture, found = copy
    with subprocess.Popen(
        [sys.executable, "-m", "vllm_codesign.cli.main", "view", str(capture.path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=Path.home(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = re.match(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert url is not None
            page = browser.page()
            page.size(1280, 900)
            page.open(url[0])
            open_and_check(page, found)
            page.wait("document.documentElement.dataset.figures", 120)
            assert "(latency, per request)" in page.evaluate(
                "document.querySelector('.finding').textContent"
            )
            page.screenshot(SHOTS / "view-real.png")
            assert page.complaints == []
        finally:
            process.terminate()
