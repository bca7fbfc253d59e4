"""Writes docs/code_map.md from pyproject.toml's layers and the modules' first lines."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

from docs.markdown_text import code, table

PAGE = Path(__file__).with_name("code_map.md")
ROOT = PAGE.parents[1]
PACKAGE = "vllm_codesign"

_INTRODUCTION = """\
<!-- Written by docs/generate_code_map.py from pyproject.toml and the modules' docstrings;
`make docs`. -->
# Map of the code

A file is a room with one purpose, and its first line says which. A layer imports lower ones and
nothing of its own height or above; import-linter holds it to that (`make lint`).
"""

_INSIDE = """
What runs inside vLLM ({rooms}) imports the
standard library and wrapt only: it works under the GIL of the very loop that is measured.
"""


def page() -> str:
    """The whole text of docs/code_map.md."""
    contracts = _contracts()
    layers = contracts["layers"]["layers"]
    inside = next(each for each in contracts.values() if each["type"] == "forbidden")
    parts = [_INTRODUCTION, *table(("room", "layer", ""), reversed([*_layers(layers)]))]
    parts.append(_INSIDE.format(rooms=", ".join(map(_room, inside["source_modules"]))))
    for layer in layers:
        for name in _names(layer):
            files = rooms(name)
            if len(files) > 1:
                parts += [f"## {code(_bare(name))}\n", *table(("file", ""), files), ""]
    return "\n".join(parts)


def _contracts() -> dict[str, dict[str, object]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts: list[dict[str, object]] = project["tool"]["importlinter"]["contracts"]
    return {str(each["name"]): each for each in contracts}


def _names(layer: str) -> list[str]:
    return [name.strip() for name in layer.split("|")]


def _layers(layers: list[str]) -> Iterator[tuple[str, str, str]]:
    for number, layer in enumerate(reversed(layers), start=1):
        for name in _names(layer):
            yield _room(name), str(number), purpose(_file(name))


def rooms(name: str) -> list[tuple[str, str]]:
    """Path and purpose of each file of a layer; a folder's own line is in the table of layers."""
    folder = _file(name).parent
    if _file(name).name != "__init__.py":
        return []
    files = [file for file in sorted(folder.rglob("*.py")) if file != folder / "__init__.py"]
    return [(code(str(file.relative_to(folder))), purpose(file)) for file in files]


def purpose(file: Path) -> str:
    """First sentence of the module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{file} does not say what it is for: give it a docstring")
    return " ".join(text.split("\n\n")[0].split())


def _file(name: str) -> Path:
    path = ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _bare(name: str) -> str:
    return name.removeprefix(f"{PACKAGE}.")


def _room(name: str) -> str:
    return code(_bare(name))
