"""A lower layer never imports a higher one, and inside vLLM there is little to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_INSIDE = """
import importlib, pkgutil, sys
names = ["vllm_codesign.plugin", "vllm_codesign.semconv", "vllm_codesign.settings"]
for package in ("vllm_codesign.hooks", "vllm_codesign.recorder"):
    names.append(package)
    path = importlib.import_module(package).__path__
    names += [each.name for each in pkgutil.walk_packages(path, package + ".")]
before = set(sys.modules)
for name in names:
    importlib.import_module(name)
roots = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(roots - sys.stdlib_module_names - {"vllm_codesign", "wrapt"}))
"""


def test_contracts_of_the_layers_are_kept() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_inside_vllm_only_the_standard_library_and_wrapt_are_imported() -> None:
    # -S would hide wrapt; -X importtime is not needed: what is loaded is what counts.
    done = subprocess.run(
        [sys.executable, "-c", _INSIDE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
