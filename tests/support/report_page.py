"""What a test asks of a report's page in a browser."""

from __future__ import annotations

import json

import pytest

from tests.support.browser import Page
from vllm_codesign.model.trace import RequestTrace

# What of the waterfall is seen: where each bar lies in its track, by the browser's own layout.
BARS = """[...document.querySelectorAll('#waterfall tr.span')].map(row => {
  const bar = row.querySelector('.bar'), track = row.querySelector('.track');
  const b = bar.getBoundingClientRect(), t = track.getBoundingClientRect();
  return {name: row.querySelector('th').textContent, start: Number(bar.dataset.startNs),
    length: Number(bar.dataset.lengthNs), colour: getComputedStyle(bar).backgroundColor,
    left: b.left - t.left, width: b.width, whole: t.width,
    cells: [...row.querySelectorAll('td.number')].map(c => c.textContent)};
})"""
NUMBERED = "[...document.querySelectorAll('#list tbody tr')].map(row => row.dataset.trace)"


def check_bars(page: Page, trace: RequestTrace) -> None:
    """The bars of the open request are its spans: by what they say, and as they are laid out."""
    bars = page.evaluate(BARS)
    assert [(bar["start"], bar["length"]) for bar in bars] == [
        (span.start_ns - trace.root.start_ns, span.duration_ns) for span in trace.spans
    ]
    for bar, span in zip(bars, trace.spans, strict=True):
        assert bar["colour"].startswith("rgb("), "it can be seen"
        pixel = trace.root.duration_ns / bar["whole"]
        # A bar is never thinner than it can be seen, nor drawn past the end.
        left = min(bar["start"], trace.root.duration_ns - 2 * pixel)
        assert bar["left"] * pixel == pytest.approx(left, abs=0.5 * pixel), bar
        width = max(span.duration_ns, 2 * pixel)
        assert bar["width"] * pixel == pytest.approx(width, abs=0.5 * pixel), bar
        start_ms, length_ms = (float(cell.replace(",", "")) for cell in bar["cells"])
        assert start_ms == pytest.approx(bar["start"] / 1e6, rel=6e-3, abs=6e-4), bar
        assert length_ms == pytest.approx(span.duration_ns / 1e6, rel=6e-3, abs=6e-4), bar


def rows(page: Page) -> list[str]:
    found = page.evaluate(NUMBERED)
    assert isinstance(found, list)
    return found


def search(page: Page, text: str) -> tuple[list[str], str]:
    """Types it; the traces then listed and what the page says of them."""
    page.evaluate("(text => { text.focus(); text.select(); })(document.getElementById('text'))")
    page.type(text)
    page.wait(f"document.getElementById('text').value === {json.dumps(text)}")
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    return rows(page), str(page.evaluate("document.getElementById('status').textContent"))
