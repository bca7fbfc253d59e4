"""How large a report is and how soon it is drawn, and the same of `codesign view`.

    python benchmarks/report_page.py 1000 10000 100000

Made-up requests of 14 spans, eight or so at a time, with their engine steps; a real Chromium, the
middle of five openings of the report. Needs Debian's `chromium`.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support import busy_capture
from tests.support.browser import Browser, executable, running
from vllm_codesign.analysis.overview import overview
from vllm_codesign.report.page import render

OPENINGS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("requests", nargs="+", type=int)
    counts = parser.parse_args().requests
    chromium = executable()
    if chromium is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    print("| requests | report made in | report.html | drawn after | view: list after | search |")
    print("|---|---|---|---|---|---|")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder, running(chromium) as browser:
            demo = busy_capture.demo(Path(folder), busy_capture.requests(count))
            print(f"| {count:,} | {_report(demo, browser)} | {_view(demo)} |", flush=True)
    return 0


def _report(demo: Path, browser: Browser) -> str:
    began = time.monotonic()
    page = demo / "report.html"
    page.write_text(render(overview(demo)), encoding="utf-8")
    made_s = time.monotonic() - began
    drawn = []
    for _ in range(OPENINGS):
        tab = browser.page()
        tab.open(page.as_uri())
        drawn.append(tab.evaluate("performance.getEntriesByName('codesign-drawn')[0].startTime"))
        tab.close()
    size = page.stat().st_size / 1e6
    return f"{made_s:.1f} s | {size:.2f} MB | {statistics.median(drawn):.0f} ms"


def _view(demo: Path) -> str:
    root = Path(__file__).resolve().parents[1]
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "vllm_codesign.cli.main", "view", str(demo)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = re.match(r"http://\S+", process.stdout.readline())
            assert url is not None
            _get(f"{url[0]}api/requests?limit=10")
            listed_s = time.monotonic() - began
            began = time.monotonic()
            _get(f"{url[0]}api/requests?limit=10&text=agent-3")
            return f"{listed_s:.1f} s | {1e3 * (time.monotonic() - began):.0f} ms"
        finally:
            process.terminate()


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
        return content


if __name__ == "__main__":
    sys.exit(main())
