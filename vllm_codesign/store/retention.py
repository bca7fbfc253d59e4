"""Keeps the store within its caps: the oldest segments go first, and that is counted.

Every exporter calls this now and then, several at once too: a file that is gone already
was somebody else's to count.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_codesign.store.capture import Capture, Removed, RunInfo, captures
from vllm_codesign.store.errors import StoreError

MAX_BYTES = 2 << 30
MAX_AGE_S = 7 * 86_400.0
_FOLDERS = ("traces", "series", "records")


@dataclass(frozen=True, slots=True)
class _Segment:
    modified_s: float
    path: Path
    size: int
    capture: Capture


def enforce(
    store: Path,
    max_bytes: int = MAX_BYTES,
    max_age_s: float = MAX_AGE_S,
    now_s: float | None = None,
) -> Removed:
    """Remove what is over the caps of the whole store; returns what this call removed.

    The newest segment of each kind of a live run stays, whatever the caps say. `now_s` is
    Unix time. Each run's own count is kept in its `run.json`. Raises `StoreError` where
    nothing can be removed.
    """
    try:
        return _enforce(store, max_bytes, max_age_s, time.time() if now_s is None else now_s)
    except OSError as error:
        raise StoreError(f"cannot keep {store} within its caps: {error.strerror}") from error


def _enforce(store: Path, max_bytes: int, max_age_s: float, now_s: float) -> Removed:
    runs = captures(store)
    live = {run for run in runs if run.is_live(now_s)}
    segments = sorted(
        (segment for run in runs for segment in _segments(run)),
        key=lambda s: (s.modified_s, s.path.name),
    )
    spared = {s.path for s in _newest(segments) if s.capture in live}
    total = sum(segment.size for segment in segments)
    count: Counter[Capture] = Counter()
    size: Counter[Capture] = Counter()
    for segment in segments:
        if total <= max_bytes and now_s - segment.modified_s <= max_age_s:
            break
        if segment.path in spared:
            continue
        total -= segment.size
        if _unlink(segment.path):
            count[segment.capture] += 1
            size[segment.capture] += segment.size
    for run in count:
        _record(run, Removed(segments=count[run], bytes=size[run]))
    for run in runs:
        if run not in live and (run in count or _older_than(run.path, now_s - max_age_s)):
            _remove_if_empty(run)
    return Removed(segments=count.total(), bytes=size.total())


def _segments(capture: Capture) -> Iterator[_Segment]:
    for folder in _FOLDERS:
        # A dot file is being written.
        for path in (capture.path / folder).glob("[!.]*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                yield _Segment(stat.st_mtime, path, stat.st_size, capture)


def _newest(segments: list[_Segment]) -> list[_Segment]:
    by_folder: dict[Path, _Segment] = {}
    for segment in segments:  # oldest first, so the last one wins
        by_folder[segment.path.parent] = segment
    return list(by_folder.values())


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _record(capture: Capture, removed: Removed) -> None:
    def add(run: RunInfo) -> RunInfo:
        total = Removed(
            segments=run.removed.segments + removed.segments,
            bytes=run.removed.bytes + removed.bytes,
        )
        return run.model_copy(update={"removed": total})

    with contextlib.suppress(FileNotFoundError):  # the run went away meanwhile
        capture.update(add)


def _older_than(path: Path, then_s: float) -> bool:
    try:
        return path.stat().st_mtime < then_s
    except FileNotFoundError:
        return False


def _remove_if_empty(capture: Capture) -> None:
    """Remove the folder of a run that ended and has no segment left."""
    if next(_segments(capture), None) is not None:
        return
    # Only files that we make: a folder with anything else in it stays.
    for leftover in (*capture.path.glob("*/.*.tmp"), *capture.path.glob(".run.json.*.tmp")):
        leftover.unlink(missing_ok=True)
    for name in ("run.json", ".lock"):
        (capture.path / name).unlink(missing_ok=True)
    for folder in (*(capture.path / name for name in _FOLDERS), capture.path):
        with contextlib.suppress(OSError):  # not there, or somebody put a file into it
            folder.rmdir()
