"""Writes every generated page and the dashboards' pictures again: `make docs`.

A generator is a module `docs/generate_*.py` with the path `PAGE` and the function `page()`, which
returns its whole text. Pictures are those of `docs/pictures/dashboard.py`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from docs.pictures.dashboard import pictures


def generators() -> list[ModuleType]:
    """All of them, by name."""
    files = sorted(Path(__file__).parent.glob("generate_*.py"))
    return [importlib.import_module(f"docs.{file.stem}") for file in files]


if __name__ == "__main__":
    for each in generators():
        each.PAGE.write_text(each.page(), encoding="utf-8")
        print(each.PAGE.name)
    for file, text in pictures().items():
        file.write_text(text, encoding="utf-8")
        print(file.name)
