"""Plotly figures of a report: mean phases per scenario, and the spans of one request.

A figure carries no theme: the page sets text and grid colours, for light, dark and paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from vllm_codesign import semconv
from vllm_codesign.analysis import client, server
from vllm_codesign.analysis.finding import ms
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.analysis.tables import Scenario
from vllm_codesign.model.step import Step, Stretch
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span

# Host phases warm, engine phases cold, what nobody claims grey; told apart by lightness
# too, for print and for colour-blind readers (after Okabe and Ito's palette).
COLOURS = {
    "receive": "#f4d58d",
    "template_wait": "#f2b880",
    "template_run": "#d98c4a",
    "tokenize_wait": "#d1495b",
    "tokenize_run": "#8f2d56",
    "frontend_wait": "#e3b7a0",
    "frontend_run": "#a9745b",
    "dispatch": "#edae49",
    "queue": "#7fd1c7",
    "prefill": "#2a9df4",
    "decode": "#1d5fa8",
    "return": "#c9a227",
    "detokenize": "#b8a07e",
    "send": "#b8a07e",
    "other": "#9aa0a6",
}
CLIENT_COLOURS = {
    "serialize": "#6c757d",
    "http_overhead": "#495464",
    "prefill": "#a9b4c2",
    "decode": "#cdd5df",
}
_SPAN_COLOUR = {p.span.name: COLOURS[p.key] for p in server.PHASES if p.span is not None}
_STEP_COLOURS = {
    "device": "#1d5fa8",
    "prepare": "#d1495b",
    "schedule": "#8f2d56",
    "update": "#d98c4a",
}
MAX_STEPS = 400
"""Steps drawn under one request."""

_KV_COLOUR = "#56b4e9"
_ROW_PX = 22
_MAX_HOVER = 100
"""Characters of one attribute in a hover box; the inter-token times would fill the screen."""


def phases(scenarios: tuple[Scenario, ...]) -> dict[str, Any] | None:
    """Stacked bars, mean ms: what the clients of a scenario saw, and the server below it.

    The clients' bar begins where theirs do, the server's with the first byte: a little later.
    """
    shown = [s for s in scenarios if s.server["total"] is not None]
    if not shown:
        return None
    figure = go.Figure()
    clients = [s for s in shown if s.client["total"] is not None]
    for column in client.COLUMNS if clients else ():
        if column.key in CLIENT_COLOURS:
            _stack(
                figure,
                rows=[_row_name(s, "client") for s in clients],
                stats=[s.client[column.key] for s in clients],
                totals=[s.client["total"] for s in clients],
                label=column.label,
                brief=column.brief,
                colour=CLIENT_COLOURS[column.key],
            )
    for phase in server.PHASES:
        if phase.side == "busy" or phase.key == "total":
            continue  # busy time lies within other phases
        _stack(
            figure,
            rows=[_row_name(s, "server") for s in shown],
            stats=[s.server[phase.key] for s in shown],
            totals=[s.server["total"] for s in shown],
            label=phase.label,
            brief=phase.brief,
            colour=COLOURS[phase.key],
        )
    rows = [_row_name(s, side) for s in shown for side in _sides(s)]
    figure.update_layout(
        barmode="stack",
        height=70 + 34 * len(rows),
        bargap=0.25,
        margin={"l": 10, "r": 20, "t": 10, "b": 45},
        showlegend=False,  # the page has one that wraps
        uniformtext={"minsize": 10, "mode": "hide"},
        xaxis={"title": {"text": "mean ms per request"}, "rangemode": "tozero"},
        yaxis={
            "automargin": True,
            "ticksuffix": "  ",
            "categoryorder": "array",
            "categoryarray": rows[::-1],
        },
    )
    return plain(figure)


def legend(scenarios: tuple[Scenario, ...]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Label and colour of everything that `phases` stacks, by whose time it is."""
    groups: dict[str, list[tuple[str, str]]] = {}
    if any(s.client["total"] is not None for s in scenarios):
        groups["client"] = [
            (c.label, CLIENT_COLOURS[c.key]) for c in client.COLUMNS if c.key in CLIENT_COLOURS
        ]
    for side in ("host", "engine"):
        groups[side] = [(p.label, COLOURS[p.key]) for p in server.PHASES if p.side == side]
    groups["neither"] = [("other: no span covers it", COLOURS["other"])]
    return list(groups.items())


def _sides(scenario: Scenario) -> tuple[str, ...]:
    return ("server",) if scenario.client["total"] is None else ("client", "server")


def _row_name(scenario: Scenario, side: str) -> str:
    return f"{escaped(scenario.name)} · {side}"


def _stack(
    figure: go.Figure,
    rows: list[str],
    stats: Sequence[Stat | None],
    totals: Sequence[Stat | None],
    label: str,
    brief: str,
    colour: str,
) -> None:
    means = [stat.mean if stat else 0.0 for stat in stats]
    wholes = [total.mean if total else 0.0 for total in totals]
    add_stacked(figure, rows, means, wholes, label, brief, colour)


def add_stacked(
    figure: go.Figure,
    rows: list[str],
    means: list[float],
    wholes: list[float],
    label: str,
    brief: str,
    colour: str,
) -> None:
    """One colour of stacked bars, a mean in ms for each row and its share of the whole."""
    figure.add_bar(
        name=label,
        orientation="h",
        y=rows,
        x=means,
        text=[label] * len(rows),
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        customdata=[
            [ms(mean), f"{100 * mean / whole:.1f} %" if whole else "–"]
            for mean, whole in zip(means, wholes, strict=True)
        ],
        hovertemplate=f"<b>{label}</b>, %{{y}}<br>%{{customdata[0]}}, "
        f"%{{customdata[1]}} of the total<br>{brief}<extra></extra>",
        marker={"color": colour, "line": {"width": 0}},
    )


def waterfall(trace: RequestTrace, steps: Sequence[Step] = ()) -> dict[str, Any]:
    """The spans of one request on its own time axis, root first, in order of their start.

    Below them what the engine did for its steps: a row for the device and one for each kind of
    host work.
    """
    spans = trace.spans
    origin = trace.root.start_ns
    labels = [_label(span, trace) for span in spans]
    figure = go.Figure()
    figure.add_bar(
        orientation="h",
        y=list(range(len(spans))),
        base=[(span.start_ns - origin) / 1e6 for span in spans],
        x=[span.duration_ns / 1e6 for span in spans],
        marker={
            "color": [_colour(span) for span in spans],
            # A width in pixels: a span of no length is still there to be seen.
            "line": {"width": 1.5, "color": [_colour(span) for span in spans]},
            "opacity": [0.55 if _aggregate(span) else 1.0 for span in spans],
        },
        text=[ms(span.duration_ns / 1e6) for span in spans],
        textposition="none",
        customdata=[[_hover(span, origin)] for span in spans],
        hovertemplate="%{customdata[0]}<extra></extra>",
        showlegend=False,
    )
    labels += _step_rows(figure, trace, steps, len(spans))
    figure.update_layout(
        height=60 + _ROW_PX * len(labels),
        bargap=0.25,
        margin={"l": 10, "r": 20, "t": 6, "b": 40},
        barmode="overlay",
        xaxis={"title": {"text": "ms since the first byte"}, "rangemode": "tozero"},
        yaxis={
            "autorange": "reversed",
            "automargin": True,
            "tickvals": list(range(len(labels))),
            "ticktext": labels,
            "ticksuffix": "  ",
            "showgrid": False,
        },
    )
    return plain(figure)


def _step_rows(
    figure: go.Figure, trace: RequestTrace, steps: Sequence[Step], below: int
) -> list[str]:
    """Rows of the request's steps, the first `MAX_STEPS` of them; returns their labels."""
    begin = trace.root.attributes.get(semconv.MONOTONIC.key)
    if not steps or not isinstance(begin, int):
        return []
    shown = steps[:MAX_STEPS]
    labels = []
    for row, (name, colour) in enumerate(_STEP_COLOURS.items(), below):
        pieces = [(s, piece) for s in shown for piece in _pieces(s, name)]
        figure.add_bar(
            orientation="h",
            y=[row] * len(pieces),
            base=[(start - begin) / 1e6 for _, (start, _) in pieces],
            x=[(end - start) / 1e6 for _, (start, end) in pieces],
            marker={"color": colour, "line": {"width": 0.5, "color": colour}},
            customdata=[
                [
                    f"step {s.number}: {name} {ms((end - start) / 1e6)}, {s.requests} requests, "
                    f"{s.tokens} tokens"
                ]
                for s, (start, end) in pieces
            ],
            hovertemplate="%{customdata[0]}<extra></extra>",
            showlegend=False,
        )
        labels.append(f"steps: {name}")
    if len(steps) > len(shown):
        labels[-1] += f" (first {len(shown)} of {len(steps)})"
    return labels


def _pieces(step: Step, name: str) -> list[Stretch]:
    if name == "device":
        return [(d.start_ns, d.end_ns) for rank in step.ranks for d in rank.device]
    if name == "schedule":
        return [step.schedule]
    if name == "update":
        return [step.update] if step.update is not None else []
    return [(r.execute[0], r.forward[0]) for r in step.ranks if r.execute and r.forward]


def plain(figure: go.Figure) -> dict[str, Any]:
    # Without Plotly's default template: 7 kB of colours a figure that the page replaces.
    figure.update_layout(template=None)
    data: dict[str, Any] = figure.to_plotly_json()
    return {"data": list(data["data"]), "layout": data["layout"]}


def _label(span: Span, trace: RequestTrace) -> str:
    index = span.attributes.get(semconv.REQUEST_INDEX.key)
    several = any(s.attributes.get(semconv.REQUEST_INDEX.key) == 1 for s in trace.children)
    name = f"{span.name} #{index}" if several and index is not None else span.name
    # Plotly reads some tags in labels.
    return escaped(f"{name}{_moved(span)} · {ms(span.duration_ns / 1e6)}")


def _moved(span: Span) -> str:
    """The tier and the tokens of a connector's span."""
    tier = span.attributes.get(semconv.KV_TIER.key)
    tokens = span.attributes.get(semconv.KV_TOKENS.key)
    told = [str(tier)] if tier else []
    if isinstance(tokens, int):
        told.append(f"{tokens:,} tokens")
    return f" ({', '.join(told)})" if told else ""


def _aggregate(span: Span) -> bool:
    kind = semconv.SPAN_BY_NAME.get(span.name)
    return kind is not None and kind.aggregate


def _colour(span: Span) -> str:
    if span.name.startswith("kv."):
        return _KV_COLOUR
    return _SPAN_COLOUR.get(span.name, COLOURS["other"])


def _hover(span: Span, origin: int) -> str:
    start_ms, end_ms = (span.start_ns - origin) / 1e6, (span.end_ns - origin) / 1e6
    lines = [
        f"<b>{escaped(span.name)}</b> ({escaped(span.service)})",
        f"{ms(start_ms)} – {ms(end_ms)}: {ms(span.duration_ns / 1e6)}",
        *(f"{escaped(key)} = {_value(value)}" for key, value in span.attributes.items()),
    ]
    lines += [f"event {escaped(e.name)} at {ms((e.time_ns - origin) / 1e6)}" for e in span.events]
    return "<br>".join(lines)


def _value(value: AttributeValue) -> str:
    text = ", ".join(str(item) for item in value) if isinstance(value, tuple) else str(value)
    return escaped(text if len(text) <= _MAX_HOVER else text[: _MAX_HOVER - 1] + "…")


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
