"""Hunks against git itself."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from vllm_codesign.patching.hunks import ABSENT, DoesNotFit, FileChange, Hunk, blob
from vllm_codesign.patching.patch_file import parse

GIT = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "core.autocrlf=false")


def test_blob_is_that_of_git() -> None:
    # `git hash-object` of nothing and of `hello`.
    assert blob(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert blob(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert blob(None) == ABSENT


def test_no_hunk_is_applied_elsewhere_than_at_its_line() -> None:
    hunk = Hunk(2, (b"x\n",), 2, (b"y\n",), 1, 1)
    change = FileChange("vllm/a.py", blob(b"x\nx\n"), blob(b"x\ny\n"), (hunk,))
    assert change.forward(b"x\nx\n") == b"x\ny\n"
    moved = FileChange("vllm/a.py", blob(b"x\nz\n"), blob(b"y\nz\n"), (hunk,))
    with pytest.raises(DoesNotFit, match="line 2 is not"):
        moved.forward(b"x\nz\n")
    with pytest.raises(DoesNotFit, match="content is"):
        change.forward(b"x\nx")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("seed", range(5))
def test_what_git_wrote_gives_what_git_has(tmp_path: Path, seed: int) -> None:
    """Random edits of many files, among them additions, deletions and lines without an end."""
    chance = random.Random(seed)
    package = tmp_path / "vllm"
    package.mkdir()
    before: dict[str, bytes | None] = {f"vllm/f{n}.py": _text(chance) for n in range(20)}
    before |= {"vllm/new one.py": None, "vllm/new2.py": None}
    _commit(tmp_path, before, "before")
    after = {path: _edited(chance, text) for path, text in before.items()}
    after["vllm/f0.py"] = None
    _commit(tmp_path, after, "after")
    raw = _git(tmp_path, "format-patch", "--full-index", "--no-renames", "--stdout", "-1")
    found = parse(raw, "0001-x", "0.19.0", "x")
    assert found.subject == "after"
    changed = {path for path in before if before[path] != after[path]}
    assert {each.path for each in found.changes} == changed
    assert len(changed) > 10
    for each in found.changes:
        assert each.forward(before[each.path]) == after[each.path]
        assert each.backward(after[each.path]) == before[each.path]


def _git(folder: Path, *words: str) -> bytes:
    return subprocess.run([*GIT, *words], cwd=folder, check=True, capture_output=True).stdout


def _commit(folder: Path, contents: dict[str, bytes | None], message: str) -> None:
    for path, text in contents.items():
        if text is None:
            (folder / path).unlink(missing_ok=True)
        else:
            (folder / path).write_bytes(text)
    if message == "before":
        _git(folder, "init", "-q")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", message)


def _text(chance: random.Random) -> bytes:
    lines = [
        chance.choice((b"a\n", b"b\n", b"\n", b"c\r\n")) for _ in range(chance.randrange(1, 60))
    ]
    return b"".join(lines) + chance.choice((b"", b"no end"))


def _edited(chance: random.Random, text: bytes | None) -> bytes:
    if text is None:
        return _text(chance)
    lines = text.split(b"\n")
    for _ in range(chance.randrange(0, 4)):
        at = chance.randrange(len(lines))
        lines[at : at + chance.randrange(2)] = [b"edited %d" % chance.randrange(99)]
    return b"\n".join(lines) or b"x"
