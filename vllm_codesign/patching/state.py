"""How far a patch is applied: told by the blobs of its files alone, there is no other record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from vllm_codesign.patching.hunks import ABSENT, FileChange, blob
from vllm_codesign.patching.installation import Installation
from vllm_codesign.patching.kept import Kept
from vllm_codesign.patching.patch_file import Patch


class State(StrEnum):
    """Of a file, and of a patch as a whole."""

    NOT_APPLIED = "not applied"
    APPLIED = "applied"
    PARTLY = "partly applied"
    """Some files have it, others not: an apply or a revert was interrupted."""
    CHANGED = "changed by somebody else"
    OTHER = "holds another patch"
    """One that this does not build on, or another edition of this one."""
    MISSING = "missing"
    WRONG_VERSION = "wrong version"


@dataclass(frozen=True, slots=True)
class FileState:
    """One file of a patch."""

    change: FileChange
    state: State
    content: bytes | None
    by: tuple[str, ...] = ()
    """Patches between what the file is and what this patch knows, the nearest first."""


@dataclass(frozen=True, slots=True)
class PatchState:
    """A patch and its files; no files where it is for another version."""

    patch: Patch
    state: State
    files: tuple[FileState, ...] = ()


def states(installation: Installation, shipped: Sequence[Patch]) -> list[PatchState]:
    """Of every patch that is shipped, and of those that an earlier codesign applied here."""
    here = known(installation, shipped)
    found = [_state(patch, here, installation) for patch in here]
    # What is kept of an earlier edition but not applied any more is of no interest.
    found = [each for each in found if not each.patch.earlier or _any(each, State.APPLIED)]
    elsewhere = [patch for patch in shipped if patch.version != installation.version]
    return found + [PatchState(patch, State.WRONG_VERSION) for patch in elsewhere]


def known(installation: Installation, shipped: Sequence[Patch]) -> list[Patch]:
    """Patches for this version, in the order in which they are applied."""
    here = [patch for patch in shipped if patch.version == installation.version]
    raws = {patch.raw for patch in here}
    kept = Kept(installation.site).patches(installation.version)
    return here + [replace(patch, earlier=True) for patch in kept if patch.raw not in raws]


def _state(patch: Patch, here: Sequence[Patch], installation: Installation) -> PatchState:
    files = tuple(
        _file_state(change, here, installation.content(change.path)) for change in patch.changes
    )
    each = {file.state for file in files}
    for bad in (State.CHANGED, State.MISSING, State.OTHER):
        if bad in each:
            return PatchState(patch, bad, files)
    return PatchState(patch, each.pop() if len(each) == 1 else State.PARTLY, files)


def _any(patch_state: PatchState, state: State) -> bool:
    return any(file.state is state for file in patch_state.files)


def _file_state(change: FileChange, here: Sequence[Patch], content: bytes | None) -> FileState:
    found = blob(content)
    if found == change.old:
        return FileState(change, State.NOT_APPLIED, content)
    if found == change.new:
        return FileState(change, State.APPLIED, content)
    above = _back(found, change.path, here)
    if change.new in dict(above):
        return FileState(change, State.APPLIED, content, _names(above, change.new))
    below = _back(change.old, change.path, here)
    if found in dict(below):
        return FileState(change, State.NOT_APPLIED, content, _names(below, found))
    if above:
        return FileState(change, State.OTHER, content, tuple(name for _, name in above))
    return FileState(change, State.MISSING if found == ABSENT else State.CHANGED, content)


def _back(sha: str, path: str, here: Sequence[Patch]) -> list[tuple[str, str]]:
    """From a blob back through the patches that make it: what each was made of, and its name."""
    made_by = {
        change.new: (change.old, patch.name)
        for patch in here
        for change in patch.changes
        if change.path == path
    }
    found: list[tuple[str, str]] = []
    while sha in made_by and len(found) < len(made_by):
        found.append(made_by[sha])
        sha = found[-1][0]
    return found


def _names(back: Sequence[tuple[str, str]], until: str) -> tuple[str, ...]:
    shas = [sha for sha, _ in back]
    return tuple(name for _, name in back[: shas.index(until) + 1])
