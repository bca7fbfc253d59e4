"""Applying and reverting: all is read, made and verified before the first byte is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_codesign.model.errors import CodesignError
from vllm_codesign.patching.durable import Replacement, cached, leftover, replace
from vllm_codesign.patching.hunks import DoesNotFit, FileChange, blob
from vllm_codesign.patching.installation import Installation
from vllm_codesign.patching.kept import Kept
from vllm_codesign.patching.patch_file import Patch
from vllm_codesign.patching.state import FileState, PatchState, State, states


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done of one patch, or would be."""

    patch: Patch
    was: State
    done: tuple[FileChange, ...]
    """Files that were written; none where there was nothing to do."""
    contents: Mapping[str, bytes | None] = field(repr=False)
    """What is in them now, or would be; by path."""


def apply(
    installation: Installation, patch: Patch, shipped: Sequence[Patch], dry_run: bool = False
) -> Outcome:
    """Apply of a patch what is not applied yet, file by file in the patch's order.

    Raises CodesignError where that cannot be; it says where something was written before.
    """
    kept = Kept(installation.site)
    now, plan = _apply_plan(installation, patch, shipped)
    if dry_run or not (plan or _leftovers(installation, patch)):
        return _outcome(now, plan)
    with kept.lock():
        _clear(installation, patch)
        # Again, as somebody else may have had the lock.
        now, plan = _apply_plan(installation, patch, shipped)
        if plan:
            _keep(kept, patch, plan)
            replace(each for _, each in plan)
        _tidy(kept, installation, shipped)
    return _outcome(now, plan)


def revert(
    installation: Installation, patch: Patch, shipped: Sequence[Patch], dry_run: bool = False
) -> Outcome:
    """Take back what is applied of a patch, in the opposite order; raises as `apply`.

    So files that have it come before those that do not, whenever a run is interrupted: an author
    who puts first what serves the old rest as well has a vLLM that works at every moment.
    """
    kept = Kept(installation.site)
    now, plan = _revert_plan(installation, patch, shipped, kept)
    nothing = not (plan or _leftovers(installation, patch) or kept.folder.is_dir())
    if dry_run or nothing:
        return _outcome(now, plan)
    with kept.lock():
        _clear(installation, patch)
        now, plan = _revert_plan(installation, patch, shipped, kept)
        replace(each for _, each in plan)
        _tidy(kept, installation, shipped)
    return _outcome(now, plan)


def tidy(installation: Installation, shipped: Sequence[Patch]) -> None:
    """Remove what is kept and needed no more: vLLM was installed anew. Raises as `apply`."""
    kept = Kept(installation.site)
    if kept.folder.is_dir():
        with kept.lock():
            _tidy(kept, installation, shipped)


_Plan = list[tuple[FileChange, Replacement]]


def _outcome(now: PatchState, plan: _Plan) -> Outcome:
    contents = {change.path: each.after for change, each in plan}
    return Outcome(now.patch, now.state, tuple(change for change, _ in plan), contents)


def _apply_plan(
    installation: Installation, patch: Patch, shipped: Sequence[Patch]
) -> tuple[PatchState, _Plan]:
    now = _now(installation, patch, shipped)
    plan: _Plan = []
    for file in now.files:
        _refuse_changed(installation, file)
        if file.state is not State.NOT_APPLIED:
            continue
        if file.by:
            raise CodesignError(
                f"{patch.name} builds on {file.by[0]}, which is not applied: codesign patch apply "
                f"{file.by[-1]}, or --all"
            )
        try:
            made = file.change.forward(file.content)
        except DoesNotFit as error:
            raise CodesignError(
                f"{patch.name} contradicts itself for {file.change.path} ({error}): reinstall "
                "vllm-codesign"
            ) from error
        plan.append((file.change, _replacement(installation, file, made)))
    return now, plan


def _revert_plan(
    installation: Installation, patch: Patch, shipped: Sequence[Patch], kept: Kept
) -> tuple[PatchState, _Plan]:
    now = _now(installation, patch, shipped)
    plan: _Plan = []
    for file in reversed(now.files):
        _refuse_changed(installation, file)
        if file.state is not State.APPLIED:
            continue
        if file.by:
            raise CodesignError(
                f"{file.by[-1]} builds on {patch.name}: codesign patch revert {file.by[0]} first"
            )
        made = _original(patch, file, kept)
        plan.append((file.change, _replacement(installation, file, made)))
    return now, plan


def _original(patch: Patch, file: FileState, kept: Kept) -> bytes | None:
    content = kept.original(file.change.old)
    if content is not None:
        return content
    try:
        return file.change.backward(file.content)
    except DoesNotFit as error:
        raise CodesignError(
            f"no original of {file.change.path} is kept, and {patch.name} cannot be taken back "
            f"from it ({error}): reinstall vLLM"
        ) from error


def _now(installation: Installation, patch: Patch, shipped: Sequence[Patch]) -> PatchState:
    for each in states(installation, shipped):
        if each.patch == patch:
            break
    else:
        raise CodesignError(f"{patch.name} is not known any more: see codesign patch status")
    if each.state is State.WRONG_VERSION:
        raise CodesignError(
            f"{patch.name} is for vLLM {patch.version}, and {installation.version} is installed "
            "here: see codesign patch list"
        )
    return each


def _refuse_changed(installation: Installation, file: FileState) -> None:
    where = installation.file(file.change.path)
    if file.state is State.MISSING:
        raise CodesignError(f"{where} is missing: reinstall vLLM {installation.version}")
    if file.state is State.OTHER:
        raise CodesignError(
            f"{where} holds another patch or edition, {file.by[0]}: codesign patch revert "
            f"{file.by[0]} first"
        )
    if file.state is State.CHANGED:
        raise CodesignError(
            f"{where} was changed by somebody else: its blob is {blob(file.content)}, neither "
            f"{file.change.old} (vLLM {installation.version}) nor {file.change.new} (patched); "
            f"reinstall vLLM {installation.version}"
        )


def _replacement(installation: Installation, file: FileState, made: bytes | None) -> Replacement:
    path = installation.file(file.change.path)
    if not path.parent.is_dir():
        raise CodesignError(f"{path.parent} is missing: reinstall vLLM {installation.version}")
    folders = [installation.site, path.parent]
    if any(cached(path)):
        folders.append(path.parent / "__pycache__")
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CodesignError(
                f"{folder} is not writable: run this as the user who installed vLLM, where its "
                "files can be changed"
            )
    return Replacement(path, file.content, made)


def _leftovers(installation: Installation, patch: Patch) -> list[Path]:
    """What a killed run left beside the files of a patch."""
    files = (leftover(installation.file(change.path)) for change in patch.changes)
    return [file for file in files if file.exists()]


def _clear(installation: Installation, patch: Patch) -> None:
    for file in _leftovers(installation, patch):
        try:
            os.unlink(file)
        except OSError as error:
            raise CodesignError(f"cannot remove {file}: {error.strerror}") from error


def _keep(kept: Kept, patch: Patch, plan: _Plan) -> None:
    try:
        kept.keep(patch, [each.before for _, each in plan])
    except OSError as error:
        raise CodesignError(
            f"cannot keep the originals in {kept.folder}: {error.strerror}; vLLM's files are as "
            "they were"
        ) from error


def _tidy(kept: Kept, installation: Installation, shipped: Sequence[Patch]) -> None:
    applied = [
        each.patch
        for each in states(installation, shipped)
        if any(file.state is State.APPLIED for file in each.files)
    ]
    try:
        kept.tidy(applied)
    except OSError as error:
        raise CodesignError(
            f"cannot clear what is not needed in {kept.folder}: {error.strerror}; vLLM's files "
            "are as wanted"
        ) from error
