"""The comparison of arms as one HTML file: the terminal's table, and a chart of the shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from vllm_codesign import __version__
from vllm_codesign.analysis import tables
from vllm_codesign.analysis.arms import Comparison, Shares
from vllm_codesign.analysis.arms_sheet import arms_sheet, remarks
from vllm_codesign.model.bench import ArmsRun
from vllm_codesign.report import charts
from vllm_codesign.report.account_charts import PART_COLOURS
from vllm_codesign.report.environment import environment, utc
from vllm_codesign.semconv import Part

_LABELS = {
    "exposed host": PART_COLOURS[Part.GAP_PREPARE.value],
    "device": PART_COLOURS[Part.DEVICE_DECODE.value],
    "queue.capacity": PART_COLOURS[Part.QUEUE_CAPACITY.value],
    "kv.load": PART_COLOURS[Part.KV_LOAD.value],
    "unexplained": PART_COLOURS[Part.UNATTRIBUTED.value],
    "engine, steps not recorded": "#cdd5df",
}
_NOTHING = 1e-6
"""Percent: what is left of a sum of floats."""


def render_arms(run: ArmsRun, comparison: Comparison, folder: Path) -> str:
    """The whole page; figures are those of `analysis.arms`."""
    shares = chart(comparison)
    figures = {"shares": shares} if shares is not None else {}
    return (
        environment()
        .get_template("arms.html.j2")
        .render(
            run=run,
            comparison=comparison,
            sheet=arms_sheet(comparison),
            remarks=list(remarks(comparison)),
            figures=figures,
            legend=[(bar["name"], bar["marker"]["color"]) for bar in shares["data"]]
            if shares is not None
            else [],
            where=folder,
            started=utc(run.started_unix_ns),
            plotly=get_plotlyjs(),
            view_name=tables.VIEW,
            version=__version__,
        )
    )


def chart(comparison: Comparison) -> dict[str, Any] | None:
    """Stacked bars, percent of wall time, a row for each scenario and arm that is accounted for."""
    shown = [
        (f"{charts.escaped(compared.scenario)} · {charts.escaped(figures.arm)}", figures.shares)
        for compared in comparison.scenarios
        for figures in compared.arms
        if figures.shares is not None
    ]
    if not shown:
        return None
    rows = [name for name, _ in shown]
    found = [_stack(shares) for _, shares in shown]
    figure = go.Figure()
    for label, colour in _LABELS.items():
        if not any(each[label] > _NOTHING for each in found):
            continue
        figure.add_bar(
            name=label,
            orientation="h",
            y=rows,
            x=[each[label] for each in found],
            text=[f"{label} {each[label]:.1f}" for each in found],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            hovertemplate=f"<b>{label}</b>, %{{y}}<br>%{{x:.1f}} %<extra></extra>",
            marker={"color": colour, "line": {"width": 0}},
        )
    figure.update_layout(
        barmode="stack",
        height=70 + 34 * len(rows),
        bargap=0.25,
        margin={"l": 10, "r": 20, "t": 10, "b": 45},
        showlegend=False,
        uniformtext={"minsize": 10, "mode": "hide"},
        xaxis={"title": {"text": "% of wall time"}, "range": [0, 100]},
        yaxis={
            "automargin": True,
            "ticksuffix": "  ",
            "categoryorder": "array",
            "categoryarray": rows[::-1],
        },
    )
    return charts.plain(figure)


def _stack(shares: Shares) -> dict[str, float]:
    """What sums to 100; below level `step` the engine's time has no parts."""
    known = (
        shares.exposed,
        shares.device or 0.0,
        shares.queue_capacity or 0.0,
        shares.kv_load or 0.0,
        shares.unexplained,
    )
    values = (*known, max(100 - sum(known), 0.0))
    return dict(zip(_LABELS, values, strict=True))
