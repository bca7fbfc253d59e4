"""Writes docs/compatibility.md from the snapshots of vLLM's signatures and the pins."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.markdown_text import code, table
from vllm_codesign.hooks.resolve import resolve
from vllm_codesign.hooks.table import Outcome, Status
from vllm_codesign.plugin import TABLES

PAGE = Path(__file__).with_name("compatibility.md")
ROOT = PAGE.parents[1]

_INTRODUCTION = """\
<!-- Written by docs/generate_compatibility.py from tests/hooks/signatures, pyproject.toml and
requirements/; `make docs`. -->
# Compatibility
"""

_RUN = (
    (
        "vLLM 0.32.0",
        "on CPU: API server, EngineCore and worker; several API servers, tensor and data"
        " parallelism",
        "pipeline stages: this vLLM does not serve them on a CPU",
    ),
    ("vLLM 0.19.0", "on CPU, the worker inside EngineCore", ""),
    (
        "other vLLM",
        "",
        "each hook is held against the signature it finds, and `codesign doctor` says the outcome",
    ),
    ("V1 model runner", "on CPU, both versions", "on a GPU"),
    ("V2 model runner", "", "signatures alone are checked"),
    (
        "CUDA",
        "",
        "**GPU device time unverified**: the events' code is tested against a stand-in",
    ),
    ("ROCm", "", "**GPU device time unverified**: the same calls in a ROCm build of torch"),
    ("GPU telemetry", "recorded answers of nvidia-ml-py and amdsmi", "a driver"),
    ("Python 3.11", "all tests", ""),
    ("Python 3.12, 3.13", "", "allowed"),
    (
        "platform",
        "Linux, x86-64",
        "other machines: vLLM's CPU wheel is pinned for x86-64, the plugin itself is pure Python",
    ),
)

_HOOKS = """\
## Hooks

One row a hook, by the process it is for. *installed*: the target is there, with the parameters
that the hook reads by name. *not there*: this version does it another way, and another row has it.
*Needed*: without it requests are not traced whole, and `codesign doctor` fails. The methods of KV
connectors are wrapped on the class that vLLM makes and are not in this table.
"""

_WORDS = {Status.INSTALLED: "installed", Status.VERSION_SKIPPED: "not there"}


def page() -> str:
    """The whole text of docs/compatibility.md."""
    found = snapshots()
    counted = [f"- vLLM {version}: {_counts(found[version], version)}" for version in found]
    return "\n".join(
        [
            _INTRODUCTION,
            *table(("what", "which"), _requirements()),
            "",
            "## What was run on what\n",
            *table(("", "run", "not run"), _RUN),
            "\nKV connectors have [a table of their own](kv.md#what-was-run).\n",
            _HOOKS,
            *counted,
            "",
            *table(("hook", "process", "needed", *found, "target"), _rows(found)),
            "",
        ]
    )


def snapshots() -> dict[str, dict[str, Any]]:
    """By version, the oldest first: target to its parameters, or None where it is not there."""
    read = [
        json.loads(path.read_text())
        for path in (ROOT / "tests" / "hooks" / "signatures").glob("vllm-*.json")
    ]
    read.sort(key=lambda each: tuple(map(int, each["vllm"].split("."))))
    return {each["vllm"]: each["targets"] for each in read}


def outcomes(targets: dict[str, Any], version: str) -> list[Outcome]:
    """What would become of every row in that version."""

    def names(target: str) -> list[str] | None:
        parameters = targets[target]
        return None if parameters is None else [name for name, _ in parameters]

    return [resolve(each.TABLE, hook, names, version) for each in TABLES for hook in each.HOOKS]


def _counts(targets: dict[str, Any], version: str) -> str:
    words = Counter(_word(each) for each in outcomes(targets, version))
    return ", ".join(f"{count} {word}" for word, count in words.most_common())


def _word(outcome: Outcome) -> str:
    return _WORDS.get(outcome.status, outcome.status.value)


def _rows(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    columns = [outcomes(targets, version) for version, targets in found.items()]
    for row in zip(*columns, strict=True):
        hook = row[0].hook
        targets = dict.fromkeys(each.target for each in row if each.target)
        yield (
            code(hook.id),
            row[0].table,
            "yes" if hook.required else "no",
            *map(_word, row),
            "<br>".join(map(code, targets)),
        )


def _requirements() -> Iterator[tuple[str, str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    opentelemetry = next(
        each for each in project["dependencies"] if each.startswith("opentelemetry-sdk")
    )
    yield "vLLM", "tested: " + ", ".join(snapshots()) + "; the plugin asks for none by version"
    yield "Python", code(project["requires-python"])
    yield (
        "OpenTelemetry",
        f"{code(opentelemetry)}; tested: {_pinned('otel-1.40')} (`make test-otel`) and"
        f" {_pinned('vllm-0.32.0')}",
    )
    yield (
        "needs besides",
        ", ".join(
            code(each) for each in project["dependencies"] if not each.startswith("opentelemetry")
        ),
    )
    for extra, wanted in project["optional-dependencies"].items():
        yield f"`vllm-codesign[{extra}]`", ", ".join(map(code, wanted))


def _pinned(name: str) -> str:
    pins = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    (line,) = (each for each in pins if each.startswith("opentelemetry-sdk=="))
    return line.partition("==")[2]
