"""A TOML or JSON file with one table for each thing, and what is wrong with it in one line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vllm_codesign.model.errors import CodesignError

_Named = TypeVar("_Named", bound=BaseModel)


def read_tables(path: Path, key: str, model: type[_Named]) -> list[tuple[str, _Named]]:
    """The tables called `key`, checked, in the file's order, each with where it stands.

    Raises CodesignError naming file, table, field and cure.
    """
    found = []
    for number, entry in enumerate(_entries(path, key), start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"{path}: {key} {number}" + (f" ({name})" if isinstance(name, str) else "")
        try:
            found.append((where, model.model_validate(entry, strict=True)))
        except ValidationError as error:
            raise CodesignError(f"{where}: {_explain(error, model)}") from error
    return found


def _entries(path: Path, key: str) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise CodesignError(
            f"{path}: cannot be read ({reason}): name a TOML or JSON file"
        ) from error
    try:
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise CodesignError(f"{path}: not {kind}: {error}") from error
    entries = document.get(key) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise CodesignError(f"{path}: {key} is missing: write one [[{key}]] table for each")
    return entries


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        return f"{field} is not a field: use {', '.join(model.model_fields)}"
    if first["type"] == "missing":
        return f"{field} is missing: add it"
    meaning = first["msg"][0].lower() + first["msg"][1:]
    where = f"{field} = {first['input']!r}" if field else "not a table"
    return f"{where}: {meaning}"
