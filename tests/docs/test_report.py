"""The table of cures in docs/report.md is the one that the commands print."""

from __future__ import annotations

from pathlib import Path

from vllm_codesign.analysis.cures import CURES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_cure_has_a_row() -> None:
    """That writing the page again changes nothing is held by test_generated.py."""
    text = (DOCS / "report.md").read_text()
    assert text.count("\n| ") >= len(CURES)
    assert "| tokenizer pool wait | `frontend.wait` | `frontend` |" in text
