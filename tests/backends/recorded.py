"""Answers of real back ends, recorded outside the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "backends"
WHOLE = 0xABCDEF0123456789ABCDEF0123456789
UNICODE = 0xC0DE0000000000000000000000000003
REJECTED = 0xC0DE0000000000000000000000000002


def recorded(name: str) -> Path:
    """The file, or a skip that says where it would be."""
    path = RECORDED / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"the recorded answers are not here: {path}")
    return path


def answer(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(recorded(name).read_bytes())
    return found
