"""A dashboard of one panel, and a recording of what it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashboards.layout import Dashboard, Row
from dashboards.panels import Panel, Query
from docs.pictures.dashboard import picture
from docs.pictures.recording import Recording, Series
from tests.support import drawn

STEP_S = 60.0
Answers = Mapping[str, Sequence[tuple[Mapping[str, str], Sequence[float | None]]]]


def recording(answers: Answers, **more: Any) -> Recording:
    """Answers by query; an instant is a minute."""
    lengths = {len(v) for found in answers.values() for _, v in found} - {1}
    said = {
        "about": "made up",
        "load": "clients: none",
        "started": "2026-01-02 03:04",
        "step_s": STEP_S,
        "instants": max(lengths, default=5),
        "rate_s": 61.0,
        "exemplars": {},
        "no_data": {},
    }
    return Recording(
        answers={
            query: tuple(Series(labels, tuple(values)) for labels, values in found)
            for query, found in answers.items()
        },
        **{**said, **more},
    )


def panel(*queries: Query, **more: Any) -> Panel:
    return Panel("Shown", "What it shows.", "do something", queries, **more)


def draw(shown: Panel, answers: Answers, **more: Any) -> drawn.Panel:
    """The panel as it is drawn."""
    dashboard = Dashboard("made", "Made", "Made up.", (Row("Row", (shown,)),)).json()
    found = drawn.panels(picture(dashboard, recording(answers, **more)))
    return found[shown.title]
