"""Plugins of the tests' own, found by vLLM as any installed one is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ASYNC_ON_CPU = (
    Path(__file__).parents[2] / "benchmarks" / "async_on_cpu" / "async_on_cpu.py"
).read_text()
"""Asynchronous scheduling, which the CPU platform forces off whatever the flags say."""

SLEEPING = """
import os
import time

import wrapt


def _wrap(module, owner, name, variable):
    seconds = float(os.environ.get(variable, "0"))
    if not seconds:
        return

    def patch(module):
        target = getattr(module, owner)
        # A plain function: what wraps it later sees the method as it was.
        original = target.__dict__[name]

        def slow(*args, **kwargs):
            time.sleep(seconds)
            return original(*args, **kwargs)

        slow.__name__, slow.__qualname__ = original.__name__, original.__qualname__
        slow.__wrapped__ = original
        setattr(target, name, slow)

    wrapt.register_post_import_hook(patch, module)


def register():
    _wrap("vllm.v1.core.sched.scheduler", "Scheduler", "schedule", "SLEEP_IN_SCHEDULE")
    _wrap("vllm.renderers.base", "BaseRenderer", "_tokenize_prompt", "SLEEP_IN_TOKENIZER")
    _wrap("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "_model_forward", "SLEEP_IN_FORWARD")
"""
"""Sleeps, in seconds by the environment, in front of `schedule`, the tokenizer, the forward."""


def install(folder: Path, plugins: Mapping[str, str]) -> str:
    """Make `plugins` (name to source) importable and known; returns the path to put first.

    `aa_` before a name makes vLLM load it before codesign, so that codesign wraps what it did.
    """
    for name, source in plugins.items():
        information = folder / f"{name}-1.0.dist-info"
        information.mkdir(parents=True)
        (folder / f"{name}.py").write_text(source)
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        (information / "entry_points.txt").write_text(
            f"[vllm.general_plugins]\n{name} = {name}:register\n"
        )
    return str(folder)
