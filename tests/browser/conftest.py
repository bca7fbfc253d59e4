"""A report of 1,000 requests, and a Chromium to open it in; without one these tests skip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import busy_capture
from tests.support.browser import Browser, Page, executable, running
from vllm_codesign.analysis.overview import overview
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.report.page import render

REQUESTS = 1_000
SHOTS = Path(__file__).parents[2] / "out" / "browser"
"""Pictures of what the tests saw, to be looked at."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if (found := executable()) is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with running(found) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.page()
    opened.size(1280, 900)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def requests(browser: Browser) -> list[RequestTrace]:
    return busy_capture.requests(REQUESTS)


@pytest.fixture(scope="session")
def report(requests: list[RequestTrace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`report.html` of them."""
    folder = busy_capture.demo(tmp_path_factory.mktemp("thousand"), requests)
    out = folder / "report.html"
    out.write_text(render(overview(folder)), encoding="utf-8")
    return out
