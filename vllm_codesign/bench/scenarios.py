"""Which loads there are: the study's, a quick set for small machines, and files.

A file is TOML (`[[scenario]]` tables) or JSON (`{"scenario": [...]}`), each entry with the
fields of `model.bench.Scenario`:

    [[scenario]]
    name = "agents"
    concurrency = 8
    prompt_tokens = 4000
    prompts = "shared-prefix"
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vllm_codesign.model.bench import Scenario
from vllm_codesign.model.errors import CodesignError


def _study(name: str, concurrency: int, prompt_tokens: int, repeats: int) -> Scenario:
    # Identical prompts: from the second repeat on, the study measured its prefix cache.
    return Scenario(
        name=name,
        concurrency=concurrency,
        prompt_tokens=prompt_tokens,
        max_tokens=100,
        repeats=repeats,
        prompts="identical",
    )


STUDY = (
    _study("single_1k", 1, 1_000, 5),
    _study("single_8k", 1, 8_000, 5),
    _study("single_32k", 1, 32_000, 3),
    _study("single_100k", 1, 100_000, 3),
    _study("conc4_8k", 4, 8_000, 5),
    _study("conc16_32k", 16, 32_000, 3),
    _study("conc32_32k", 32, 32_000, 3),
    _study("conc32_100k", 32, 100_000, 2),
)
"""The MI300X study's eight, with its numbers of requests."""

QUICK = (
    Scenario(name="single_500", concurrency=1, prompt_tokens=500, max_tokens=32, repeats=6),
    Scenario(name="conc4_2k", concurrency=4, prompt_tokens=2_000, max_tokens=32, repeats=3),
    Scenario(name="conc16_6k", concurrency=16, prompt_tokens=6_000, max_tokens=32, repeats=3),
)
"""66 requests, sized for two cores; the last shows the tokenizer's queue."""

SETS = {"study": STUDY, "quick": QUICK}


def select(
    names: Sequence[str] = (), set_name: str | None = None, file: Path | None = None
) -> tuple[Scenario, ...]:
    """The scenarios asked for; `names` choose among the file's, or all built-in ones.

    Without names it is the file, the set, or `quick`. Raises CodesignError.
    """
    if file is not None and set_name is not None:
        raise CodesignError("--set and --scenarios exclude each other: give one of them")
    if file is not None:
        offered = read_file(file)
    elif set_name is not None:
        offered = SETS[set_name]
    elif names:
        offered = (*STUDY, *QUICK)
    else:
        offered = QUICK
    if not names:
        return offered
    by_name = {scenario.name: scenario for scenario in offered}
    for name in names:
        if name not in by_name:
            raise CodesignError(f"no scenario is called {name!r}: choose from {_listed(by_name)}")
    return tuple(by_name[name] for name in dict.fromkeys(names))


def read_file(path: Path) -> tuple[Scenario, ...]:
    """Scenarios of a TOML or JSON file; raises CodesignError naming file, field and cure."""
    entries = _entries(path)
    scenarios: list[Scenario] = []
    for number, entry in enumerate(entries, start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"{path}: scenario {number}" + (f" ({name})" if isinstance(name, str) else "")
        try:
            scenario = Scenario.model_validate(entry, strict=True)
        except ValidationError as error:
            raise CodesignError(f"{where}: {_explain(error)}") from error
        if any(scenario.name == other.name for other in scenarios):
            raise CodesignError(f"{where}: name is taken by an earlier one: choose another")
        scenarios.append(scenario)
    return tuple(scenarios)


def _entries(path: Path) -> list[Any]:
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
    entries = document.get("scenario") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise CodesignError(f"{path}: scenario is missing: write one [[scenario]] table for each")
    return entries


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{field} is not a field: use {_listed(Scenario.model_fields)}"
    if first["type"] == "missing":
        return f"{field} is missing: add it"
    meaning = first["msg"][0].lower() + first["msg"][1:]
    where = f"{field} = {first['input']!r}" if field else "not a table"
    return f"{where}: {meaning}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
