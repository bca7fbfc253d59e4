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

from collections.abc import Iterable, Sequence
from pathlib import Path

from vllm_codesign.bench.tables_file import read_tables
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
    scenarios: list[Scenario] = []
    for where, scenario in read_tables(path, "scenario", Scenario):
        if any(scenario.name == other.name for other in scenarios):
            raise CodesignError(f"{where}: name is taken by an earlier one: choose another")
        scenarios.append(scenario)
    return tuple(scenarios)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
