"""What `codesign patch` says, in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_codesign.patching.change import Outcome
from vllm_codesign.patching.hunks import FileChange, blob
from vllm_codesign.patching.installation import Installation
from vllm_codesign.patching.patch_file import Patch
from vllm_codesign.patching.state import FileState, PatchState, State


def said(outcome: Outcome, applying: bool, dry_run: bool) -> str:
    name = outcome.patch.name
    done = "apply" if applying else "revert"
    if not outcome.done:
        return f"{name}: {'already applied' if applying else 'not applied'}, nothing to do"
    count = f"{len(outcome.done)} file{'s'[: len(outcome.done) != 1]}"
    rest = ", the rest" if outcome.was is State.PARTLY else ""
    if not dry_run:
        return f"{name}: {'applied' if applying else 'reverted'} ({count}{rest})"
    lines = [f"{name}: would {done} ({count}{rest})", *_stat(outcome.done, applying)]
    return "\n".join(lines)


def _stat(changes: Sequence[FileChange], applying: bool) -> list[str]:
    """As `git diff --stat` draws it: lines added and removed, a mark for each up to 40."""
    counts = [
        (each.added, each.removed) if applying else (each.removed, each.added) for each in changes
    ]
    width = max(len(each.path) for each in changes)
    most = max(40, *(sum(count) for count in counts))
    lines = []
    for each, (added, removed) in zip(changes, counts, strict=True):
        marks = "+" * -(-added * 40 // most) + "-" * -(-removed * 40 // most)
        lines.append(f"    {each.path:{width}} | {added + removed:4} {marks}")
    added, removed = (sum(side) for side in zip(*counts, strict=True))
    return [*lines, f"    {added} lines added, {removed} removed"]


def title(patch: Patch) -> str:
    return f"{patch.name} (an earlier edition)" if patch.earlier else patch.name


def explained(state: PatchState) -> str:
    name = state.patch.name
    match state.state:
        case State.PARTLY:
            return (
                "partly applied, a run was interrupted or vLLM installed anew: codesign patch "
                f"apply {name} completes it, codesign patch revert {name} undoes it"
            )
        case State.OTHER:
            other = next(file.by[0] for file in state.files if file.state is State.OTHER)
            return f"its files hold another patch or edition: codesign patch revert {other} first"
        case State.WRONG_VERSION:
            return f"for vLLM {state.patch.version}, not for this one"
        case State.CHANGED:
            return "changed by somebody else: left alone until vLLM is reinstalled"
    return str(state.state)


def by(file: FileState) -> str:
    if not file.by:
        return ""
    names = ", ".join(file.by)
    match file.state:
        case State.APPLIED:
            return f", {names} on top of it"
        case State.NOT_APPLIED:
            return f", {names} first"
    return f": {names}"


def where(here: Installation) -> dict[str, str]:
    return {"version": here.version, "site": str(here.site)}


def listed(patch: Patch, here: Installation | None) -> dict[str, Any]:
    return {
        "name": patch.name,
        "vllm": patch.version,
        "fits": here is not None and here.version == patch.version,
        "subject": patch.subject,
        "why": patch.why,
        "files": [change.path for change in patch.changes],
        "not_installed": list(patch.outside),
    }


def patch_plain(state: PatchState) -> dict[str, Any]:
    return {
        "name": state.patch.name,
        "vllm": state.patch.version,
        "earlier_edition": state.patch.earlier,
        "state": str(state.state),
        "files": [
            {
                "path": file.change.path,
                "state": str(file.state),
                "patches_between": list(file.by),
                "blob": blob(file.content),
                "blob_before": file.change.old,
                "blob_after": file.change.new,
            }
            for file in state.files
        ],
    }


def outcome_plain(outcome: Outcome, applying: bool) -> dict[str, Any]:
    return {
        "name": outcome.patch.name,
        "was": str(outcome.was),
        "files": [
            {
                "path": change.path,
                "lines_added": change.added if applying else change.removed,
                "lines_removed": change.removed if applying else change.added,
            }
            for change in outcome.done
        ],
    }
