"""What is read of a patch, and that whatever else stands in one is an error of one line."""

from __future__ import annotations

import pytest

from tests.patching.example import A0, A1, AFTER, B0, B1, BEFORE, NEW, A, B
from tests.support.patches import mail, patch
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.patching.hunks import ABSENT, blob
from vllm_codesign.patching.patch_file import Patch, parse

RAW = mail(BEFORE, AFTER, subject="Encode side by\n side", why="Because of\nwaiting.\n\nMore.")
PLAIN = mail({A: A0}, {A: A1})
SHA_A0, SHA_A1 = blob(A0.encode()), blob(A1.encode())

BY_GIT = b"""\
From 7aeaf5e3ba2a90fa1be31cbb7e0c4c3a1e4a4d71 Mon Sep 17 00:00:00 2001
From: =?UTF-8?q?J=C3=BCrgen?= <j@example.org>
Date: Sat, 28 Nov 2026 12:00:00 +0000
Subject: [PATCH] =?UTF-8?q?Encode=20side=20by=20side,=20f=C3=BCr=20lange=20?=
 =?UTF-8?q?Texte?=
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: 8bit

Eins f\xc3\xbcr alle,
bis 0.20.

Zweitens.
---
 vllm/a.py | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/vllm/a.py b/vllm/a.py
index 5626abf0f72e58d7a153368ba57db4c673c0e171..f719efd430d52bcfc8566a43b2eb655688d38871 100644
--- a/vllm/a.py
+++ b/vllm/a.py
@@ -1 +1 @@
-one
+two
--\x20
2.39.5

"""


def read(raw: bytes) -> Patch:
    return parse(raw, "0001-x", "0.19.0", "0001-x.patch")


def test_header_and_files() -> None:
    found = read(RAW)
    assert (found.subject, found.why) == ("Encode side by side", "Because of waiting.")
    assert [(each.path, each.old, each.new) for each in found.changes] == [
        (A, SHA_A0, SHA_A1),
        (B, blob(B0.encode()), blob(B1.encode())),
        (NEW, ABSENT, blob(b"here = True\n")),
    ]
    assert [(each.added, each.removed) for each in found.changes] == [(2, 1), (1, 1), (1, 0)]
    assert found.outside == ("tests/test_a.py",)


def test_a_mail_as_git_wrote_it() -> None:
    found = read(BY_GIT)
    assert found.subject == "Encode side by side, für lange Texte"
    assert found.why == "Eins für alle, bis 0.20."
    (change,) = found.changes
    assert change.forward(b"one\n") == b"two\n"
    assert change.backward(b"two\n") == b"one\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a\nb", "a\nc"),
        ("a\nb", "a\nb\n"),
        ("a\nb\n", "a\nb"),
        ("a\nb", "a\nb\nc"),
        ("x\r\ny\r\n", "x\r\nz\r\n"),
        ("--- a\n", "+++ b\n-- \n"),
        ("".join(f"{n}\n" for n in range(50)), "".join(f"{n}\n" for n in range(50) if n % 13)),
        (None, "new\n"),
        ("old\n", None),
    ],
)
def test_forward_and_backward(old: str | None, new: str | None) -> None:
    (change,) = patch({A: old}, {A: new}).changes
    before, after = (None if text is None else text.encode() for text in (old, new))
    assert change.forward(before) == after
    assert change.backward(after) == before


def test_an_empty_line_of_context_may_have_lost_its_blank() -> None:
    raw = PLAIN.replace(b"\n \n", b"\n\n")
    assert raw != PLAIN
    assert read(raw).changes[0].forward(A0.encode()) == A1.encode()


REFUSED = {
    "changes no file": (b"\ndiff --git", b"\nDiff"),
    "has no Subject": (b"Subject: ", b"X-Subject: "),
    "no full SHA-1 for vllm/a.py": (SHA_A0.encode(), SHA_A0[:9].encode()),
    "renames or quotes a path": (b"diff --git a/vllm/a.py b/vllm/a.py", b"diff --git a/x b/y"),
    "renames or copies a file (vllm/a.py)": (b"\nindex ", b"\nsimilarity index 90%\nindex "),
    "changes a file's mode (vllm/a.py)": (
        b"\nindex ",
        b"\nold mode 100644\nnew mode 100755\nindex ",
    ),
    "changes a binary file (vllm/a.py)": (b"--- a/vllm/a.py", b"GIT binary patch"),
    "changes nothing inside vllm/": (b"vllm/a.py", b"test/a.py"),
    "which is no path inside a checkout": (b"/vllm/a.py", b"/vllm/../a.py"),
    "malformed in line 2": (b"\nindex ", b"\nindeks "),
    "malformed in line 4": (b"+++ b/vllm/a.py", b"+++ b/vllm/b.py"),
    "malformed in line 5": (b"@@ -1,4", b"@@ -?,4"),
    "malformed in line 13": (b"@@ -1,4", b"@@ -1,40"),
    "malformed in line 7": (b"\n-two = 2", b"\n*two = 2"),
    "malformed in line 11": (b"@@ -1,4 +1,5", b"@@ -1,4 +1,4"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_refused_in_one_line(said: str) -> None:
    good, bad = REFUSED[said]
    assert good in PLAIN
    with pytest.raises(CodesignError) as raised:
        read(PLAIN.replace(good, bad))
    (line,) = str(raised.value).splitlines()
    assert line.startswith("0001-x.patch ")
    assert said in line


def test_a_file_twice_is_refused() -> None:
    diff = PLAIN[PLAIN.index(b"diff --git") : PLAIN.index(b"-- \n")]
    with pytest.raises(CodesignError, match=r"^0001-x\.patch changes vllm/a\.py twice: "):
        read(PLAIN.replace(b"-- \n", diff + b"-- \n"))


@pytest.mark.parametrize("end", range(0, len(PLAIN) - len(b"-- \n2.39.5\n\n"), 7))
def test_cut_short_it_is_refused_or_does_not_verify(end: int) -> None:
    try:
        found = read(PLAIN[:end])
    except CodesignError:
        return
    with pytest.raises(ValueError, match="hunks make"):
        found.changes[0].forward(A0.encode())
