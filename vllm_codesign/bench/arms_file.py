"""Arms of one's own: server configurations from a TOML file, and those that are built in."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vllm_codesign.bench.arms import BUILT_IN
from vllm_codesign.bench.placement import parse_cores
from vllm_codesign.model.bench import Arm
from vllm_codesign.model.errors import CodesignError


def select(names: Sequence[str], file: Path | None) -> tuple[Arm, ...]:
    """The arms called `names`, in that order: of the file and built in; all of the file without.

    Raises CodesignError naming the file, what is wrong in it and the cure.
    """
    own = read_file(file) if file is not None else ()
    if not names:
        return own
    offered = {arm.name: arm for arm in (*BUILT_IN, *own)}
    for name in names:
        if name not in offered:
            raise CodesignError(f"no arm is called {name!r}: choose from {', '.join(offered)}")
    return tuple(offered[name] for name in dict.fromkeys(names))


def read_file(path: Path) -> tuple[Arm, ...]:
    """The arms of a TOML file, in its order; raises CodesignError."""
    arms: list[Arm] = []
    for number, entry in enumerate(_entries(path), start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"{path}: arm {number}" + (f" ({name})" if isinstance(name, str) else "")
        try:
            arm = Arm.model_validate(entry, strict=True)
        except ValidationError as error:
            raise CodesignError(f"{where}: {_explain(error)}") from error
        if any(arm.name == other.name for other in (*BUILT_IN, *arms)):
            raise CodesignError(f"{where}: name is taken: choose another")
        for role, cores in arm.cores.items():
            try:
                parse_cores(cores)
            except ValueError as error:
                raise CodesignError(f"{where}: cores.{role}: {error}") from error
        arms.append(arm)
    return tuple(arms)


def _entries(path: Path) -> list[Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise CodesignError(f"{path}: cannot be read ({reason}): name a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise CodesignError(f"{path}: not TOML: {error}") from error
    entries = document.get("arm")
    if not isinstance(entries, list) or not entries:
        raise CodesignError(f"{path}: arm is missing: write one [[arm]] table for each")
    return entries


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        return f"{field} is not a field: use {', '.join(Arm.model_fields)}"
    if first["type"] == "missing":
        return f"{field} is missing: add it"
    meaning = first["msg"][0].lower() + first["msg"][1:]
    return f"{field} = {first['input']!r}: {meaning}" if field else f"not a table: {meaning}"
