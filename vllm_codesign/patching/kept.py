"""What a revert needs: originals and patches as they were applied, in a folder beside `vllm/`.

The folder is `.codesign-patches` in site-packages: it goes where the environment goes, pip neither
knows nor touches it, and a package that is uninstalled leaves nothing behind in `vllm/`. Originals
are named by their blob, so what is in them can be verified, and one of another version of vLLM can
never be taken for this one's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vllm_codesign.model.errors import CodesignError
from vllm_codesign.patching.durable import make_folder, write
from vllm_codesign.patching.hunks import ABSENT, blob
from vllm_codesign.patching.patch_file import Patch, parse

FOLDER = ".codesign-patches"


class Kept:
    """The folder of one installation; it may not exist."""

    def __init__(self, site: Path) -> None:
        self.folder = site / FOLDER
        self._originals = self.folder / "originals"

    def patches(self, version: str) -> list[Patch]:
        """Those that were applied to a vLLM of this version, and those about to be when killed.

        One that cannot be read is passed over: what is shipped and the originals may still do.
        """
        return self._read(version)[0]

    def damaged(self, version: str) -> list[Path]:
        """Kept patches for this version that cannot be read any more."""
        return self._read(version)[1]

    def _read(self, version: str) -> tuple[list[Patch], list[Path]]:
        found, damaged = [], []
        for path in sorted((self.folder / f"vllm-{version}").glob("*.patch")):
            try:
                found.append(parse(path.read_bytes(), path.stem, version, str(path)))
            except (CodesignError, OSError):
                damaged.append(path)
        return found, damaged

    def original(self, sha: str) -> bytes | None:
        """The content of that blob; None where it is not kept, or is not what it was."""
        try:
            content = (self._originals / sha).read_bytes()
        except OSError:
            return None
        return content if blob(content) == sha else None

    def keep(self, patch: Patch, contents: Iterable[bytes | None]) -> None:
        """A patch that is about to be applied, and what is in its files now; raises OSError."""
        for folder in (self._originals, self._file(patch).parent):
            make_folder(folder)
        for content in contents:
            sha = blob(content)
            if content is not None and self.original(sha) is None:
                write(self._originals / sha, content)
        if self._raw(patch) != patch.raw:
            write(self._file(patch), patch.raw)

    def tidy(self, applied: Iterable[Patch]) -> None:
        """Remove everything but what these need, and leave no empty folder; raises OSError.

        Nothing goes while a kept patch cannot be read: nobody knows which originals it needs.
        """
        versions = [each.name.removeprefix("vllm-") for each in self.folder.glob("vllm-*")]
        if any(map(self.damaged, versions)):
            return
        patches = list(applied)
        files = {self._file(patch) for patch in patches}
        files |= {
            self._originals / change.old
            for patch in patches
            for change in patch.changes
            if change.old != ABSENT
        }
        for folder in [each for each in self.folder.glob("*") if each.is_dir()]:
            for file in folder.iterdir():
                if file not in files:
                    os.unlink(file)
            _remove_if_empty(folder)

    def _file(self, patch: Patch) -> Path:
        return self.folder / f"vllm-{patch.version}" / f"{patch.name}.patch"

    def _raw(self, patch: Patch) -> bytes | None:
        try:
            return self._file(patch).read_bytes()
        except OSError:
            return None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold off any other apply or revert here; raises CodesignError where one is at work.

        The lock's file goes with the folder when nothing is kept, so whoever gets it looks whether
        it still is the one that others would open.
        """
        path = self.folder / "lock"
        try:
            handle = self._locked(path)
        except BlockingIOError:
            raise CodesignError(
                f"another codesign patch is at work in {self.folder.parent}: try again when it is "
                "done"
            ) from None
        except OSError as error:
            raise CodesignError(f"cannot write {path}: {error.strerror}") from error
        try:
            yield
        finally:
            if not any(each.is_dir() for each in self.folder.glob("*")):
                with contextlib.suppress(OSError):
                    os.unlink(path)
                _remove_if_empty(self.folder)
            os.close(handle)

    def _locked(self, path: Path) -> int:
        while True:
            make_folder(self.folder)
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:
                continue  # somebody else's revert has just removed the folder
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(path.stat(), os.fstat(handle)):
                        return handle
            except OSError:
                os.close(handle)
                raise
            os.close(handle)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not empty
        os.rmdir(folder)
