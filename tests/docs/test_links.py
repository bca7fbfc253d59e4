"""Links of the files that are no pages of the site; the pages' own are checked by the build.

Nothing is fetched: addresses elsewhere are held to their form.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("dashboards/**/*.md"),
        *ROOT.glob("deploy/**/*.md"),
    ]
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"```.*?```", re.S)


def links(text: str) -> list[str]:
    """Targets of a Markdown text's links, outside of code."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", _FENCED.sub("", text)))


def slugs(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site both make them."""
    titles = re.findall(r"^#+ (.+)$", _FENCED.sub("", text), re.M)
    kept = (re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles)
    return {re.sub(r"[-\s]+", "-", title) for title in kept}


def problem(file: Path, target: str) -> str:
    """What is wrong with a link; empty where nothing is."""
    address = urlsplit(target)
    if address.scheme or address.netloc:
        whole = address.scheme == "https" and "." in address.netloc
        return "" if whole else "not https://HOST/..."
    if target.startswith("/"):
        return "leads out of the repository"
    path = file.parent / address.path if address.path else file
    if not path.exists():
        return "there is no such file"
    if ROOT not in path.resolve().parents:
        return "leads out of the repository"
    if (
        address.fragment
        and path.suffix == ".md"
        and address.fragment not in slugs(path.read_text())
    ):
        return "there is no such heading"
    return ""


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    found = {target: problem(file, target) for target in links(file.read_text())}
    assert {target: wrong for target, wrong in found.items() if wrong} == {}


def test_readme_and_changelog_are_among_them() -> None:
    names = {str(path.relative_to(ROOT)) for path in FILES}
    assert {"README.md", "CHANGELOG.md", "deploy/rocm/README.md", "docs/kv.md"} <= names
    assert "docs/finding.md" in links((ROOT / "README.md").read_text())


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ("docs/kv.md", ""),
        ("docs/kv.md#what-was-run", ""),
        ("docs/kv.md#what-was-not-run", "there is no such heading"),
        ("docs/no.md", "there is no such file"),
        ("../outside.md", "there is no such file"),
        ("..", "leads out of the repository"),
        ("/docs/kv.md", "leads out of the repository"),
        ("http://example.org/x", "not https://HOST/..."),
        ("https://example.org/x", ""),
    ],
)
def test_a_bad_link_is_named(target: str, wrong: str) -> None:
    assert problem(ROOT / "README.md", target) == wrong


def test_code_has_no_links() -> None:
    assert links("a [b](c.md) `[d](e.md)`\n\n    [f](g.md)\n\n```\n[h](i.md)\n```\n") == ["c.md"]
