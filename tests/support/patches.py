"""Patches and installed packages made on the spot, and what is in the latter."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from vllm_codesign.patching.hunks import blob
from vllm_codesign.patching.patch_file import Patch, parse

Contents = Mapping[str, str | None]
"""Text of files by path; None where there is none."""

VERSION = "0.19.0"


def mail(before: Contents, after: Contents, subject: str = "Change it", why: str = "Why.") -> bytes:
    """What `git format-patch --full-index` writes of a change, without a context."""
    parts = [
        f"From {'1' * 40} Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\n"
        f"Date: Sat, 28 Nov 2026 12:00:00 +0000\nSubject: [PATCH 1/2] {subject}\n\n{why}\n---\n"
        " vllm/a.py | 2 +-\n 1 file changed\n\n"
    ]
    for path, old in before.items():
        parts.append(_diff(path, old, after[path]))
    return "".join([*parts, "-- \n2.39.5\n\n"]).encode()


def _diff(path: str, old: str | None, new: str | None) -> str:
    shas = [blob(None if text is None else text.encode()) for text in (old, new)]
    kind = {old: "new file mode 100644\n", new: "deleted file mode 100644\n"}.get(None, "")
    head = f"diff --git a/{path} b/{path}\n{kind}index {shas[0]}..{shas[1]}"
    head += "\n" if kind else " 100644\n"
    names = (
        "/dev/null" if old is None else f"a/{path}",
        "/dev/null" if new is None else f"b/{path}",
    )
    lines = difflib.unified_diff(
        (old or "").splitlines(keepends=True), (new or "").splitlines(keepends=True), *names
    )
    return head + "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def patch(before: Contents, after: Contents, name: str = "0001-change-it") -> Patch:
    """The same, parsed."""
    return parse(mail(before, after), name, VERSION, f"{name}.patch")


def write(folder: Path, name: str, raw: bytes, version: str = VERSION) -> None:
    """A patch where codesign looks for those it brings."""
    file = folder / f"vllm-{version}" / f"{name}.patch"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(raw)


def install(
    site: Path, contents: Contents, version: str = "0.19.0+cpu", name: str = "vllm"
) -> Path:
    """A vLLM of a few files, as a wheel leaves it; its files are two minutes old."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    files = {"vllm/__init__.py": "", **contents}
    for path, text in files.items():
        if text is not None:
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(text)
            old = (site / path).stat().st_mtime - 120
            os.utime(site / path, (old, old))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))
    return site


def contents(site: Path) -> dict[str, str]:
    """Everything below `site` but bytecode, folders with a `/` and no text."""
    found = {}
    for path in sorted(site.rglob("*")):
        name = str(path.relative_to(site))
        if "__pycache__" not in name:
            found[name] = f"{path.read_text()}" if path.is_file() else "/"
    return found
