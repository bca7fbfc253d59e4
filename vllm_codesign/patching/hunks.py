"""What a patch does to one file: hunks at their very lines, forwards and backwards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

ABSENT = "0" * 40
"""What stands for the blob of a file that is not there, as in git."""


class DoesNotFit(ValueError):
    """The content is not what the hunks were made for."""


def blob(content: bytes | None) -> str:
    """git's name for a content: SHA-1 of `blob <length>` and it. None is a file not there."""
    if content is None:
        return ABSENT
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines, with their ends, that give place to others; both with the context around."""

    old_start: int
    """Number of the first line, from 1; of the line before where `old` is empty."""
    old: tuple[bytes, ...]
    new_start: int
    new: tuple[bytes, ...]
    removed: int
    added: int


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file from one blob to another."""

    path: str
    """From the top of the repository, as `vllm/utils/async_utils.py`."""
    old: str
    """SHA-1 of the blob before; ABSENT where the patch adds the file."""
    new: str
    """And after; ABSENT where the patch deletes it."""
    hunks: tuple[Hunk, ...] = field(repr=False)

    @property
    def added(self) -> int:
        """Lines."""
        return sum(hunk.added for hunk in self.hunks)

    @property
    def removed(self) -> int:
        """Lines."""
        return sum(hunk.removed for hunk in self.hunks)

    def forward(self, content: bytes | None) -> bytes | None:
        """From the old content to the new; raises DoesNotFit."""
        places = ((hunk.old_start, hunk.old, hunk.new) for hunk in self.hunks)
        return _verified(content, self.old, places, self.new)

    def backward(self, content: bytes | None) -> bytes | None:
        """From the new content to the old; raises DoesNotFit."""
        places = ((hunk.new_start, hunk.new, hunk.old) for hunk in self.hunks)
        return _verified(content, self.new, places, self.old)


_Place = tuple[int, tuple[bytes, ...], tuple[bytes, ...]]


def _verified(
    content: bytes | None, before: str, places: Iterable[_Place], after: str
) -> bytes | None:
    if blob(content) != before:
        raise DoesNotFit(f"content is {blob(content)}, not {before}")
    made = b"".join(_replaced(_lines(content or b""), places))
    result = None if after == ABSENT else made
    if blob(result) != after or (result is None and made):
        raise DoesNotFit(f"the hunks make {blob(made)}, not {after}")
    return result


def _lines(content: bytes) -> list[bytes]:
    # As git has them: `splitlines` would end one at a lone carriage return, too.
    *lines, rest = content.split(b"\n")
    return [line + b"\n" for line in lines] + ([rest] if rest else [])


def _replaced(lines: list[bytes], places: Iterable[_Place]) -> list[bytes]:
    made: list[bytes] = []
    at = 0
    for start, old, new in places:
        first = start - 1 if old else start
        if first < at or tuple(lines[first : first + len(old)]) != old:
            raise DoesNotFit(f"line {start} is not what the hunk expects")
        made += lines[at:first]
        made += new
        at = first + len(old)
    return made + lines[at:]
