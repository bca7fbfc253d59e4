"""Whole dashboards: grid, titles, variables, single figures, and what cannot be drawn."""

from __future__ import annotations

import pytest

from dashboards.layout import Dashboard, Row, choices
from dashboards.panels import Panel, Query, TraceQuery
from docs.pictures.dashboard import picture, place
from tests.docs.pictures.made import draw, panel, recording
from tests.support.drawn import panels
from vllm_codesign.model.errors import CodesignError


def test_panels_lie_on_the_grid() -> None:
    whole, half, third = (
        place({"x": x, "y": 1, "w": w, "h": 8}) for x, w in ((0, 24), (12, 12), (16, 8))
    )
    assert half.right == pytest.approx(whole.right)
    assert third.right == pytest.approx(whole.right)
    assert place({"x": 0, "y": 1, "w": 12, "h": 8}).right < half.x
    assert place({"x": 0, "y": 9, "w": 12, "h": 8}).y > whole.bottom


@pytest.mark.parametrize(
    ("value", "words", "colour"),
    [(0.04, "4%", "green"), (0.1, "10%", "yellow"), (0.31, "31%", "red")],
)
def test_a_figure_has_the_colour_of_the_limit_it_reached(
    value: float, words: str, colour: str
) -> None:
    limits = ((0.1, "yellow"), (0.2, "red"))
    shown = draw(
        panel(Query("a"), kind="stat", unit="percentunit", limits=limits), {"a": [({}, [value])]}
    )
    (figure,) = shown.texts[1:]
    assert (figure.content, figure.classes[0]) == (words, colour)


def test_several_figures_in_one_panel_are_refused() -> None:
    answers = {"a": [({"instance": "0"}, [1.0]), ({"instance": "1"}, [2.0])]}
    with pytest.raises(CodesignError, match="Shown: no picture of 2 figures in one panel"):
        draw(panel(Query("a"), kind="stat"), answers)


def test_a_kind_of_panel_or_an_override_that_is_unknown_is_refused() -> None:
    answers = {"a": [({}, [1.0])]}
    dashboard = Dashboard("made", "Made", "Up.", (Row("Row", (panel(Query("a")),)),)).json()
    dashboard["panels"][1]["type"] = "gauge"
    with pytest.raises(CodesignError, match="Shown: no picture of a panel of type gauge"):
        picture(dashboard, recording(answers))
    override = {"matcher": {"id": "byRegexp", "options": "/.*/"}, "properties": []}
    with pytest.raises(CodesignError, match="Shown: no picture of an override by byRegexp"):
        draw(panel(Query("a"), overrides=(override,)), answers)


def test_variables_are_filled_in_and_tempo_s_query_is_shown() -> None:
    shown = Panel(
        "Slow because of $cause",
        "What it shows.",
        "do something",
        (TraceQuery('{ span.cause = "$cause" && span.model =~ "$model" }', table="spans"),),
        kind="table",
    )
    rows = (Row("By cause: `$cause`", (shown,)),)
    dashboard = Dashboard(
        "made", "Made", "Up.", rows, more_variables=(choices("cause", "Cause", ("ipc", "other")),)
    )
    drawn = picture(dashboard.json(), recording({}))
    (found,) = panels(drawn).values()
    assert found.title == "Slow because of ipc"
    assert ">By cause: ipc<" in drawn
    assert "Model: All · Instance: All · Arm: All · Cause: ipc" in drawn
    said = " ".join(found.words)
    assert said.startswith("No data asks Tempo, and none ran beside this run")
    assert said.endswith('{ span.cause = "ipc" && span.model =~ ".*" }')
