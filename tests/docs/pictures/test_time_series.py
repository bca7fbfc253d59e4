"""Points lie where their values say, bands on those below, and legends name what is drawn."""

from __future__ import annotations

import pytest

from dashboards.panels import Query, right_axis
from docs.pictures.recording import COMMAND
from tests.docs.pictures.made import STEP_S, draw, panel
from tests.support.drawn import Panel, Point

ONE = [({}, [0.0, 0.01, 0.04, 0.02, 0.03])]


def expected(shown: Panel, values: list[float], first: int = 0, right: bool = False) -> list[Point]:
    value, time = shown.value_scale(right), shown.time_scale()
    return [(time.at((first + n) * STEP_S), value.at(v)) for n, v in enumerate(values)]


def near(found: list[Point], wanted: list[Point]) -> bool:
    return len(found) == len(wanted) and all(
        abs(a - c) < 0.3 and abs(b - d) < 0.3 for (a, b), (c, d) in zip(found, wanted, strict=True)
    )


def test_a_point_lies_where_its_value_says() -> None:
    shown = draw(panel(Query("a", "mean"), unit="s"), {"a": ONE})
    (line,) = shown.lines()["mean"]
    assert near(line, expected(shown, [0.0, 0.01, 0.04, 0.02, 0.03]))
    # The scale itself: 40 ms above 0 by the whole height, 4 min right of 0 by the whole width.
    grid = shown.grid()
    assert line[0] == (grid.x, grid.bottom)
    assert line[2][1] == grid.y
    assert line[4][0] == grid.right


def test_a_gap_is_a_gap_and_a_value_alone_is_seen() -> None:
    values = [0.01, 0.04, None, 0.02, None]
    shown = draw(panel(Query("a", "mean"), unit="s"), {"a": [({}, values)]})
    first, alone = shown.lines()["mean"]
    assert near(first, expected(shown, [0.01, 0.04]))
    assert near(alone, expected(shown, [0.02], first=3))


def test_bands_lie_on_those_below_them() -> None:
    answers = [({"part": "a"}, [1.0, 2.0, 3.0]), ({"part": "b"}, [1.0, None, 2.0])]
    answers.append(({"part": "c"}, [1.0, 1.0, 1.0]))
    shown = draw(panel(Query("q", "{{part}}"), unit="s", stacked=True), {"q": answers})
    lines = shown.lines()
    assert near(lines["a"][0], expected(shown, [1.0, 2.0, 3.0]))
    assert [near([point], expected(shown, [v], n)) for point, v, n in (
        (lines["b"][0][0], 2.0, 0), (lines["b"][1][0], 5.0, 2))] == [True, True]  # fmt: skip
    # Where `b` has none, `c` lies on `a`.
    assert near(lines["c"][0], expected(shown, [3.0, 3.0, 6.0]))
    (area,) = shown.areas()["c"]
    assert near(area, expected(shown, [3.0, 3.0, 6.0]) + expected(shown, [2.0, 2.0, 5.0])[::-1])


def test_the_legend_names_what_is_drawn_with_mean_and_max() -> None:
    answers = [
        ({"instance": "vllm-0"}, [1.0, 2.0, None]),
        ({"instance": "vllm-1"}, [4.0, 4.0, 7.0]),
    ]
    shown = draw(panel(Query("q", "{{instance}} jobs"), unit="reqps"), {"q": answers})
    assert [*shown.lines()] == ["vllm-0 jobs", "vllm-1 jobs"]
    at = shown.words.index("mean")
    assert shown.words[at:] == [
        *("mean", "max"),
        *("vllm-0 jobs", "1.5 req/s", "2 req/s"),
        *("vllm-1 jobs", "5 req/s", "7 req/s"),
    ]


def test_an_axis_at_the_right_has_its_own_scale_and_unit() -> None:
    shown = draw(
        panel(
            Query("a", "step"),
            Query("b", "running"),
            unit="s",
            overrides=(right_axis("running", "short"),),
        ),
        {"a": ONE, "b": [({}, [0.0, 8.0, 4.0, 2.0, 6.0])]},
    )
    lines = shown.lines()
    assert near(lines["step"][0], expected(shown, [0.0, 0.01, 0.04, 0.02, 0.03]))
    assert near(lines["running"][0], expected(shown, [0.0, 8.0, 4.0, 2.0, 6.0], right=True))
    assert "running (right)" in shown.words
    # No area below what has another axis.
    assert not shown.areas()["running"]


def test_a_limit_is_a_line_at_its_value_and_one_far_above_is_told() -> None:
    limits = ((0.03, "yellow"), (0.5, "red"))
    shown = draw(panel(Query("a", "mean"), unit="s", limits=limits), {"a": ONE})
    across = [each for each in shown.marked("limit yellow") if each[0][0] == shown.grid().x]
    assert [y for _, y in across[0]] == pytest.approx([shown.value_scale().at(0.03)] * 2, abs=0.3)
    assert "yellow from 30 ms red from 500 ms, beyond this axis" in " ".join(shown.words)
    assert not [each for each in shown.marked("limit red") if each[0][0] == shown.grid().x]


def test_exemplars_lie_at_their_time_and_value() -> None:
    shown = draw(
        panel(Query("a", "p95", exemplars=True), unit="s"),
        {"a": ONE},
        exemplars={"a": ((90.0, 0.05),)},
    )
    first, *_ = shown.marked("dot")
    x, y = sum(x for x, _ in first) / 4, sum(y for _, y in first) / 4
    assert x == pytest.approx(shown.time_scale().at(90.0), abs=0.3)
    assert y == pytest.approx(shown.value_scale().at(0.05), abs=0.3)


def test_what_one_query_lacks_is_told_in_the_legend() -> None:
    shown = draw(
        panel(Query("a", "device"), Query("b", "connector"), unit="s"),
        {"a": ONE, "b": []},
        no_data={"b": "no KV connector in this run"},
    )
    assert [*shown.lines()] == ["device"]
    assert "connector: no KV connector in this run" in " ".join(shown.words)


def test_a_panel_without_data_says_why() -> None:
    reason = {"b": "no GPU in this run"}
    shown = draw(panel(Query("b", "{{instance}} used")), {"b": []}, no_data=reason)
    assert shown.words == ["No data", "no GPU in this run"]
    shown = draw(panel(Query("b", "{{i}} used"), Query("c", "{{i}} limit")), {"b": [], "c": []})
    assert shown.words == ["No data", "no value in this run"]
    shown = draw(panel(Query("new")), {})
    assert COMMAND in " ".join(shown.words)


def test_of_many_series_the_largest_are_in_the_legend_and_the_rest_is_counted() -> None:
    answers = [({"kind": f"kind{n:02}"}, [float(n)] * 3) for n in range(40)]
    shown = draw(panel(Query("q", "{{kind}}"), width=6), {"q": answers})
    named = [word for word in shown.words if word.startswith("kind")]
    assert named[-1] == "kind39"
    assert f"and {40 - len(named)} more, {40 - len(named) - 1} at most" in shown.words
    assert len(shown.lines()) == 40
