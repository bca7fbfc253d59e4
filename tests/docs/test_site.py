"""The site builds strictly, and what it would send a reader's browser for lies beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"

pytestmark = pytest.mark.skipif(
    not MKDOCS.exists(), reason="needs .venv-docs: `make docs-site` makes it"
)


def build(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MKDOCS, "build", "--site-dir", checkout / "site"],
        cwd=checkout,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the site is made from, with the files that its pages show."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    pages = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    for name in ("mkdocs.yml", *re.findall(r'^--8<-- "(.+)"$', pages, re.M)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_it_builds_and_loads_nothing_from_elsewhere(checkout: Path) -> None:
    done = build(checkout)
    assert done.returncode == 0, done.stderr
    site = checkout / "site"
    pages = {path.name for path in site.glob("*.html")}
    assert {path.with_suffix(".html").name for path in (ROOT / "docs").glob("*.md")} <= pages
    assert not [*site.rglob("*.py"), *site.rglob("*.pyc")]
    for page in site.glob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*?\bsrc=\"?([^\s\">]+)", text)
        loaded += re.findall(
            r"<link\b(?![^>]*rel=\"?(?:prev|next))[^>]*?\bhref=\"?([^\s\">]+)", text
        )
        assert loaded
        for target in loaded:
            assert not re.match(r"[a-z]+:|//", target), f"{page.name} loads {target}"
            assert (site / target.partition("?")[0]).is_file() or page.name == "404.html", target
    assert "Unreleased" in (site / "changelog.html").read_text()
    # Else the theme's own scripts would fetch what draws them.
    assert "mermaid" not in "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))


def test_whatever_leads_nowhere_stops_it(checkout: Path) -> None:
    bad = ["[gone](no_such_page.md)", "[gone](kv.md#no-such-heading)", "[out](/etc/passwd)"]
    with (checkout / "docs" / "index.md").open("a") as file:
        file.write("\n" + "\n\n".join(bad) + "\n")
    (checkout / "docs" / "lost.md").write_text("# Not in the navigation\n")
    done = build(checkout)
    assert done.returncode != 0
    for said in ("no_such_page.md", "#no-such-heading", "/etc/passwd", "lost.md"):
        assert said in done.stderr
    assert "Aborted with 4 warnings in strict mode" in done.stdout


def test_a_file_that_a_page_would_show_has_to_be_there(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").unlink()
    done = build(checkout)
    assert done.returncode != 0
    assert "CHANGELOG.md" in done.stderr
