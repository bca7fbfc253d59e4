"""Files replaced whole: whenever the process or the machine dies, a name leads to old or to new.

Everything that writes goes through functions of `os`, one step each: a test kills before and after
each of them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_codesign.model.errors import CodesignError

_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Replacement:
    """One file and what shall be in it; None for a file that shall not be there."""

    path: Path
    before: bytes | None
    after: bytes | None


def leftover(path: Path) -> Path:
    """Where the new content waits; fixed, so that the next run finds what a killed one left."""
    return path.with_name(f".{path.name}.codesign")


def clear(path: Path) -> None:
    """Remove what a killed run left beside `path`."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(leftover(path))


def replace(replacements: Iterable[Replacement]) -> None:
    """Write all new contents beside the old ones first, then rename each into place.

    Raises CodesignError, and says whether anything was changed before it.
    """
    wanted = list(replacements)
    at: Path | None = None
    try:
        for each in wanted:
            at = each.path
            if each.after is not None:
                _prepare(each.path, each.after)
        for each in wanted:
            at = each.path
            if _content(each.path) != each.before:
                raise CodesignError(f"{each.path} was changed meanwhile{_state(wanted)}")
            _drop_bytecode(each.path)
            if each.after is None:
                os.unlink(each.path)
            else:
                os.replace(leftover(each.path), each.path)
            sync(each.path.parent)
    except OSError as error:
        raise CodesignError(f"cannot write {at}: {error.strerror}{_state(wanted)}") from error
    finally:
        for each in wanted:
            with contextlib.suppress(OSError):
                clear(each.path)


def _state(wanted: Iterable[Replacement]) -> str:
    # Read again: a call that failed may have done its work all the same.
    if all(_content(each.path) != each.after for each in wanted):
        return "; vLLM's files are as they were"
    return "; some files are changed already: mend that, then apply or revert again"


def write(path: Path, content: bytes) -> None:
    """One file, whole, with what its folder is made of; raises OSError."""
    _prepare(path, content)
    os.replace(leftover(path), path)
    sync(path.parent)


def make_folder(path: Path) -> None:
    """With its parents; raises OSError."""
    if not path.parent.is_dir():
        make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
        sync(path.parent)


def sync(folder: Path) -> None:
    """Make a folder's entries last."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prepare(path: Path, content: bytes) -> None:
    clear(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    handle = os.open(leftover(path), flags, 0o600)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(handle, left) :]
        _like(path, handle)
        os.fsync(handle)
    finally:
        os.close(handle)


def _like(path: Path, handle: int) -> None:
    """Owner and mode of the file that gives place, and a later time than its own.

    Python takes cached bytecode for fresh where the source's size and its time in whole seconds are
    those it was compiled from.
    """
    now = time.time_ns()
    try:
        old = os.stat(path)
        mode, later = old.st_mode & 0o7777, max(now, (old.st_mtime_ns // _S + 1) * _S)
    except FileNotFoundError:
        old = os.stat(path.parent)
        # A folder's mode without the right to enter it is that of a file in it.
        mode, later = old.st_mode & 0o666, now
    new = os.fstat(handle)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(handle, old.st_uid, old.st_gid)
    os.fchmod(handle, mode)
    os.utime(handle, ns=(now, later))


def _drop_bytecode(path: Path) -> None:
    """Also what was compiled to be taken unchecked, as some images are built."""
    for file in cached(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)


def cached(path: Path) -> Iterator[Path]:
    """Bytecode of a source, of any Python."""
    return (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
