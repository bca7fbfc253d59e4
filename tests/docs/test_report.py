"""The table of cures in docs/report.md is the one that the commands print."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from vllm_codesign.analysis.cures import CURES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_regenerating_changes_nothing() -> None:
    spec = importlib.util.spec_from_file_location("generate_cures", DOCS / "generate_cures.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    text = (DOCS / "report.md").read_text()
    assert generator.page(text) == text, "run `make docs`"
    assert text.count("\n| ") >= len(CURES)
    assert "| tokenizer pool wait | `frontend.wait` | `frontend` |" in text
