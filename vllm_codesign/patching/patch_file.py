"""A patch in git's mail format, read strictly: which files it changes, from which blob to which.

Own code, because the parsers at hand skip what they do not know, and here that must be an error.
"""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import dataclass, field

from vllm_codesign.model.errors import CodesignError
from vllm_codesign.patching.hunks import ABSENT, FileChange, Hunk

PACKAGE = "vllm/"
"""What lies below is in an installed vLLM; the rest of a patch, its tests, is not."""

_FILE = re.compile(rb"diff --git a/(.+) b/\1")
_INDEX = re.compile(r"index ([0-9a-f]+)\.\.([0-9a-f]+)(?: 100644| 100755)?")
_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_SUBJECT_TAG = re.compile(r"^\[[^]]*\]\s*")
_REFUSED = {
    "old mode": "changes a file's mode",
    "new mode": "changes a file's mode",
    "new file mode 100755": "adds an executable",
    "new file mode 120000": "adds a link",
    "similarity index": "renames or copies a file",
    "dissimilarity index": "rewrites a file",
    "rename ": "renames a file",
    "copy ": "copies a file",
    "GIT binary patch": "changes a binary file",
    "Binary files": "changes a binary file",
}
_HARMLESS = ("new file mode 100644", "deleted file mode ")


@dataclass(frozen=True, slots=True)
class Patch:
    """One file of `patches/vllm-VERSION/`."""

    name: str
    """Its file name without `.patch`."""
    version: str
    """The vLLM it was made for, without a local part: `0.19.0`."""
    subject: str
    why: str
    """First paragraph of its message; empty where there is none."""
    changes: tuple[FileChange, ...]
    """Inside the installed package; at least one."""
    outside: tuple[str, ...]
    """Paths that only a source checkout has."""
    raw: bytes = field(repr=False)
    """The file itself."""
    earlier: bool = False
    """Whether this is what was once applied here, and another than what is shipped now."""


def parse(raw: bytes, name: str, version: str, where: str) -> Patch:
    """What `git format-patch --full-index` wrote; `where` names the file in errors.

    Raises CodesignError, one line, where it is anything else.
    """
    header, found, rest = raw.partition(b"\ndiff --git ")
    if not found:
        raise CodesignError(f"{where} changes no file: want what git format-patch writes")
    reader = _Reader(b"diff --git " + rest, where)
    changes = reader.files()
    paths = [each.path for each in changes]
    for path in paths:
        if path.startswith("/") or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise CodesignError(f"{where} names {path!r}, which is no path inside a checkout")
        if paths.count(path) > 1:
            raise CodesignError(
                f"{where} changes {path} twice: write it again with git format-patch"
            )
    inside = tuple(each for each in changes if each.path.startswith(PACKAGE))
    if not inside:
        raise CodesignError(
            f"{where} changes nothing inside {PACKAGE}, so an installed vLLM has no use for it"
        )
    subject, why = _message(header, where)
    outside = tuple(path for path in paths if not path.startswith(PACKAGE))
    return Patch(name, version, subject, why, inside, outside, raw)


def _message(header: bytes, where: str) -> tuple[str, str]:
    message = email.message_from_bytes(header, policy=email.policy.default)
    subject = _SUBJECT_TAG.sub("", " ".join(str(message["Subject"] or "").split()))
    if not subject:
        raise CodesignError(f"{where} has no Subject: want what git format-patch writes")
    payload = message.get_payload(decode=True)
    body = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
    text = re.split(r"^---\s*$", body, maxsplit=1, flags=re.MULTILINE)[0].strip()
    return subject, " ".join(re.split(r"\n\s*\n", text)[0].split())


class _Reader:
    """Goes through the lines of a diff, once."""

    def __init__(self, diff: bytes, where: str) -> None:
        self._lines = diff.split(b"\n")
        self._at = 0
        self._where = where

    def files(self) -> list[FileChange]:
        """All of them, up to git's signature or the end."""
        found = []
        while self._line().startswith(b"diff --git "):
            found.append(self._file())
        # `-- ` and git's version end a mail.
        if self._line() not in (b"", b"-- ", b"--"):
            raise self._malformed()
        return found

    def _line(self) -> bytes:
        return self._lines[self._at] if self._at < len(self._lines) else b""

    def _malformed(self) -> CodesignError:
        return CodesignError(
            f"{self._where} is malformed in line {self._at + 1} of its diff: write it again with "
            "git format-patch --full-index"
        )

    def _refused(self, path: str, what: str) -> CodesignError:
        return CodesignError(f"{self._where} {what} ({path}): only changes of text are applied")

    def _file(self) -> FileChange:
        # A rename has two names here, an odd one stands in quotes.
        match = _FILE.fullmatch(self._line())
        if match is None:
            raise self._refused(self._line().decode("utf-8", "replace"), "renames or quotes a path")
        try:
            path = match[1].decode("utf-8")
        except UnicodeDecodeError:
            raise self._malformed() from None
        self._at += 1
        old, new = self._blobs(path)
        hunks = self._hunks(path, old, new)
        if not hunks and path.startswith(PACKAGE):
            raise self._refused(path, "changes no line of a file")
        return FileChange(path, old, new, hunks)

    def _blobs(self, path: str) -> tuple[str, str]:
        blobs: re.Match[str] | None = None
        while self._line() and not self._line().startswith((b"--- ", b"diff --git ", b"-- ")):
            line = self._line().decode("utf-8", "replace")
            for start, what in _REFUSED.items():
                if line.startswith(start):
                    raise self._refused(path, what)
            blobs = _INDEX.fullmatch(line) or blobs
            if not line.startswith(("index ", *_HARMLESS)):
                raise self._malformed()
            self._at += 1
        if blobs is None:
            raise self._malformed()
        if {len(blobs[1]), len(blobs[2])} != {len(ABSENT)}:
            raise CodesignError(
                f"{self._where} has no full SHA-1 for {path}: write it again with "
                "git format-patch --full-index"
            )
        return blobs[1], blobs[2]

    def _hunks(self, path: str, old: str, new: str) -> tuple[Hunk, ...]:
        if not self._line().startswith(b"--- "):
            return ()
        names = [
            b"/dev/null" if blob == ABSENT else side + path.encode()
            for blob, side in ((old, b"a/"), (new, b"b/"))
        ]
        for mark, name in zip((b"--- ", b"+++ "), names, strict=True):
            # git ends a name that has a blank with a tab.
            if self._line().removesuffix(b"\t") != mark + name:
                raise self._malformed()
            self._at += 1
        hunks = []
        while self._line().startswith(b"@@ "):
            hunks.append(self._hunk())
        if not hunks:
            raise self._malformed()
        return tuple(hunks)

    def _hunk(self) -> Hunk:
        match = _HUNK.match(self._line())
        if match is None:
            raise self._malformed()
        self._at += 1
        old_count, new_count = (1 if match[n] is None else int(match[n]) for n in (2, 4))
        old: list[bytes] = []
        new: list[bytes] = []
        marks: list[bytes] = []
        while len(old) < old_count or len(new) < new_count or self._line().startswith(b"\\"):
            if self._at >= len(self._lines):
                raise self._malformed()
            # Mail programs strip the blank of an empty line of context.
            line = self._line() or b" "
            mark, text = line[:1], line[1:] + b"\n"
            if mark in (b" ", b"-"):
                old.append(text)
            if mark in (b" ", b"+"):
                new.append(text)
            if mark == b"\\" and marks:
                # Said of the line before it: that one has no end.
                for side, without in ((old, b"+"), (new, b"-")):
                    if marks[-1] != without:
                        side[-1] = side[-1].removesuffix(b"\n")
            elif mark not in (b" ", b"-", b"+"):
                raise self._malformed()
            marks.append(mark)
            self._at += 1
        if (len(old), len(new)) != (old_count, new_count):
            raise self._malformed()
        return Hunk(
            int(match[1]),
            tuple(old),
            int(match[3]),
            tuple(new),
            marks.count(b"-"),
            marks.count(b"+"),
        )
