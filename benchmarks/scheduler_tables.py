"""The tables of benchmarks/scheduler_costs.py."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from vllm_codesign.model.micro import Timing


def show(timings: Sequence[Timing], console: Console) -> None:
    console.print(len(timings))
