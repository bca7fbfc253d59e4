"""Writes down the parameters of every hook target in the installed vLLM: facts, as JSON.

    .venv/bin/python tests/hooks/signatures/generate.py

makes `vllm-<version>.json` beside this file; `test_signatures.py` holds the tables against
every one of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from vllm_codesign.hooks.installer import import_targets, vllm_version
from vllm_codesign.hooks.resolve import signature_of
from vllm_codesign.plugin import TABLES

FOLDER = Path(__file__).parent


def snapshot() -> dict[str, Any]:
    """Target to its parameters as [name, kind], or to null where it does not exist."""
    hooks = [hook for table in TABLES for hook in table.HOOKS]
    import_targets(hooks)
    targets: dict[str, list[list[str]] | None] = {}
    for target in sorted({target for hook in hooks for target in hook.targets}):
        signature = signature_of(target)
        targets[target] = signature and [
            [each.name, each.kind.name.lower()] for each in signature.parameters.values()
        ]
    return {"vllm": vllm_version().split("+")[0], "targets": targets}


def text_of(made: dict[str, Any]) -> str:
    """One target a line, so that a difference between two versions reads well."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in made["targets"].items()]
    return f'{{"vllm": {json.dumps(made["vllm"])}, "targets": {{\n' + ",\n".join(lines) + "\n}}\n"


def in_new_process() -> str:
    """The text of the installed version, from a process where nothing is wrapped."""
    code = "from tests.hooks.signatures.generate import *; print(text_of(snapshot()), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parents[2], stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0
    # vLLM's modules talk while they are imported; ours comes last.
    return done.stdout[done.stdout.index('{"vllm"') :]


if __name__ == "__main__":
    made = snapshot()
    path = FOLDER / f"vllm-{made['vllm']}.json"
    path.write_text(text_of(made), encoding="utf-8")
    absent = [target for target, parameters in made["targets"].items() if parameters is None]
    print(f"{path.name}: {len(made['targets'])} targets, absent: {', '.join(absent) or 'none'}")
