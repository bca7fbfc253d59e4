"""Plotly figures of the accounting: parts per scenario, and the device's strip over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from vllm_codesign.accounting import EngineTime, Fleet
from vllm_codesign.analysis.tables import Scenario
from vllm_codesign.report import charts
from vllm_codesign.semconv import IdleCause, Part

# Device time blue, what it waits for warm, waiting for the device green, unknown grey.
PART_COLOURS = {
    Part.DEVICE_PREFILL.value: "#2a9df4",
    Part.DEVICE_DECODE.value: "#1d5fa8",
    Part.KV_LOAD.value: "#56b4e9",
    Part.GAP_PREPARE.value: "#d1495b",
    Part.GAP_SCHEDULE.value: "#8f2d56",
    Part.GAP_UPDATE.value: "#d98c4a",
    Part.GAP_IPC.value: "#edae49",
    Part.GAP_OUTPUT.value: "#c9a227",
    Part.GAP_OTHER.value: "#b9bdc2",
    Part.ENGINE_PREFILL.value: "#2a9df4",
    Part.ENGINE_DECODE.value: "#1d5fa8",
    Part.ENGINE_QUEUE.value: "#7fd1c7",
    Part.QUEUE_CAPACITY.value: "#7fd1c7",
    Part.QUEUE_HOST.value: "#e07a5f",
    Part.IPC.value: "#f4d58d",
    Part.FRONTEND_CPU.value: "#a9745b",
    Part.FRONTEND_WAIT.value: "#e3b7a0",
    Part.UNATTRIBUTED.value: "#9aa0a6",
}
STRIP_COLOURS = {
    "busy": "#1d5fa8",
    IdleCause.PREPARE.value: PART_COLOURS[Part.GAP_PREPARE.value],
    IdleCause.SCHEDULE.value: PART_COLOURS[Part.GAP_SCHEDULE.value],
    IdleCause.UPDATE.value: PART_COLOURS[Part.GAP_UPDATE.value],
    IdleCause.IPC.value: PART_COLOURS[Part.GAP_IPC.value],
    IdleCause.OUTPUT.value: PART_COLOURS[Part.GAP_OUTPUT.value],
    IdleCause.OTHER.value: PART_COLOURS[Part.GAP_OTHER.value],
    IdleCause.KV_LOAD.value: PART_COLOURS[Part.KV_LOAD.value],
    IdleCause.FRONTEND.value: PART_COLOURS[Part.FRONTEND_WAIT.value],
    IdleCause.NO_WORK.value: "#eceff1",
}
IDLE_LEGEND = [
    (name if name == "busy" else f"idle: {name}", colour) for name, colour in STRIP_COLOURS.items()
]
BINS = 300
"""Of a strip: a run has thousands of steps, and a screen some thousand pixels."""


def parts(scenarios: tuple[Scenario, ...]) -> dict[str, Any] | None:
    """Stacked bars: the mean wall time of a request by part; None without any accounting."""
    shown = [s for s in scenarios if s.accounts is not None]
    if not shown:
        return None
    figure = go.Figure()
    rows = [charts.escaped(s.name) for s in shown]
    for part in _present(scenarios):
        means = [s.accounts.parts[part].mean if part in s.accounts.parts else 0.0 for s in shown]  # type: ignore[union-attr]
        wholes = [s.accounts.total.mean for s in shown]  # type: ignore[union-attr]
        charts.add_stacked(figure, rows, means, wholes, part, part, PART_COLOURS[part])
    figure.update_layout(
        barmode="stack",
        height=70 + 34 * len(rows),
        bargap=0.25,
        margin={"l": 10, "r": 20, "t": 10, "b": 45},
        showlegend=False,
        uniformtext={"minsize": 10, "mode": "hide"},
        xaxis={"title": {"text": "mean ms per request"}, "rangemode": "tozero"},
        yaxis={
            "automargin": True,
            "ticksuffix": "  ",
            "categoryorder": "array",
            "categoryarray": rows[::-1],
        },
    )
    return charts.plain(figure)


def legend(scenarios: tuple[Scenario, ...]) -> list[tuple[str, str]]:
    """Name and colour of every part that a scenario has."""
    return [(part, PART_COLOURS[part]) for part in _present(scenarios)]


def _present(scenarios: tuple[Scenario, ...]) -> list[str]:
    found = {part for s in scenarios if s.accounts is not None for part in s.accounts.parts}
    return [part.value for part in Part if part.value in found]


def strip(fleet: Fleet) -> dict[str, Any] | None:
    """What each engine's device did over time: in each of `BINS` stretches the share of it in
    which it worked, and in which it stood idle for what cause."""
    engines = [engine for engine in fleet.engines if engine.strip]
    if not engines or fleet.end_ns <= fleet.start_ns:
        return None
    edges = np.linspace(fleet.start_ns, fleet.end_ns, BINS + 1)
    at = (edges[:-1] - fleet.start_ns) / 1e6
    width = float(edges[1] - edges[0]) / 1e6
    figure = go.Figure()
    for row, engine in enumerate(engines, 1):
        for kind, colour in STRIP_COLOURS.items():
            shares = 100 * _binned(engine, kind, edges)
            if not shares.any():
                continue
            name = kind if kind == "busy" else f"idle: {kind}"
            figure.add_bar(
                x=[round(float(x), 3) for x in at],
                y=[round(float(share), 2) for share in shares],
                width=width,
                offset=0,
                name=name,
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate=f"<b>{name}</b> %{{y:.1f}} %<br>%{{x:.1f}} ms<extra>engine "
                f"{engine.engine}</extra>",
                yaxis=f"y{row if row > 1 else ''}",
            )
    axes = {
        f"yaxis{row if row > 1 else ''}": {
            "domain": [1 - row / len(engines) + 0.04, 1 - (row - 1) / len(engines)],
            "range": [0, 100],
            "title": {"text": f"% engine {engine.engine}"},
            "automargin": True,
        }
        for row, engine in enumerate(engines, 1)
    }
    figure.update_layout(
        barmode="stack",
        bargap=0,
        height=60 + 130 * len(engines),
        margin={"l": 10, "r": 20, "t": 6, "b": 40},
        showlegend=False,
        xaxis={"title": {"text": "ms since the first request"}, "rangemode": "tozero"},
        **axes,
    )
    return charts.plain(figure)


def _binned(engine: EngineTime, kind: str, edges: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Share of each bin that the pieces of this kind cover."""
    pieces = np.array([(a, b) for a, b, k in engine.strip if k == kind], dtype=float).reshape(-1, 2)
    if not len(pieces):
        return np.zeros(len(edges) - 1)
    # Covered up to x: whole pieces before it, and the part of the one it lies in.
    lengths = np.concatenate([[0.0], np.cumsum(pieces[:, 1] - pieces[:, 0])])
    index = np.searchsorted(pieces[:, 0], edges, side="right")
    before = np.maximum(index - 1, 0)
    inside = np.clip(edges - pieces[before, 0], 0, pieces[before, 1] - pieces[before, 0])
    covered = np.where(index > 0, lengths[before] + inside, 0.0)
    return np.asarray(np.diff(covered) / np.diff(edges))
