"""An installed vLLM of two files, two patches of it, and the command that sees both."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.patching.example import A0, A1, A2, AFTER, B0, BEFORE, FIRST, SECOND, A, B
from tests.support import patches
from vllm_codesign.patching import catalog


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command looks for patches; there is one of three files and a test."""
    folder = tmp_path / "patches"
    patches.write(folder, FIRST, patches.mail(BEFORE, AFTER))
    monkeypatch.setattr(catalog, "_folder", lambda: folder)
    return folder


@pytest.fixture
def second(shipped: Path) -> str:
    """Another patch, which builds on the first."""
    patches.write(shipped, SECOND, patches.mail({A: A1}, {A: A2}, "On top"))
    return SECOND


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: Path) -> Path:
    """site-packages with vLLM 0.19.0, which is the one that would be imported."""
    folder = patches.install(tmp_path / "site", {A: A0, B: B0})
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("CODESIGN_SHM", str(tmp_path / "shm"))
    return folder
