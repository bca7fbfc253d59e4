"""What `codesign micro` found, as a section of a report and as a page of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm_codesign import __version__
from vllm_codesign.analysis.micro_sheets import growth_sheet, micro_sheets
from vllm_codesign.analysis.sheet import Sheet
from vllm_codesign.analysis.study_components import published
from vllm_codesign.model.micro import MicroRun
from vllm_codesign.report.environment import environment, utc
from vllm_codesign.report.loglog import HEIGHT, WIDTH, intervals, panels


def section(run: MicroRun, path: Path) -> dict[str, Any]:
    """What `micro.html.j2` shows."""
    every = Sheet(
        "Every figure: ms of one call",
        ("call", "kind", "requests", "tokens", "median", "95 %", "rounds"),
        2,
        tuple(intervals(run.timings)),
    )
    drawn = panels(run)
    return {
        "path": path,
        "plots": [
            (name, [p for p in drawn if p.of == name]) for name in ("components", "scheduler")
        ],
        "width": WIDTH,
        "height": HEIGHT,
        "sheets": micro_sheets(run),
        "every": [every, growth_sheet(run.growths, "Every growth")],
        "environment": run.environment,
        "started": utc(run.started_unix_ns),
        "study": published()[0],
    }


def render_micro(run: MicroRun, path: Path) -> str:
    """The whole page; it opens from disk and has no script."""
    template = environment().get_template("micro_page.html.j2")
    return template.render(micro=section(run, path), version=__version__)
