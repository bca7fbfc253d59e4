"""What the recorder keeps of a Prometheus' answers; that it runs, the recording itself shows."""

from __future__ import annotations

from typing import Any

import pytest

from docs.pictures import record
from tests.support.panels import Asked, promql
from vllm_codesign.model.errors import CodesignError


class Answering:
    """In the place of a Prometheus."""

    def over(self, _query: str, start_s: float, _end: float, step_s: float) -> Any:
        late = {start_s + n * step_s: n / 3 for n in range(2, record.INSTANTS)}
        return {(("le", "1"),): late, (("le", "2"),): {}}

    def value(self, query: str, _at: float) -> Any:
        return {(): 12345.678} if "480s" in query else {}

    def exemplars(self, *_: Any) -> Any:
        return [
            {"timestamp": 1000.0 + at, "value": str(value)}
            for at, value in ((1.0, 0.2), (9.0, 0.9), (8.0, 0.4), (25.04, 0.123456))
        ]


def asked(expr: str, panel: str = "Shown") -> Asked:
    return Asked("made", panel, "legend", expr, True)


def test_each_instant_has_its_value_or_none_and_series_without_any_are_left_out() -> None:
    (series,) = record._answer(Answering(), asked("a"), 1000.0, 1480.0)  # type: ignore[arg-type]
    assert series.labels == {"le": "1"}
    assert len(series.values) == record.INSTANTS
    assert series.values[:5] == (None, None, 0.6667, 1, 1.333)


def test_a_single_figure_is_of_the_whole_time() -> None:
    (series,) = record._answer(  # type: ignore[arg-type]
        Answering(), asked("rate(a[$__range])"), 1000.0, 1480.0
    )
    assert series.values == (12350,)


def test_the_slowest_exemplar_of_a_step_is_kept() -> None:
    found = record._exemplars(Answering(), asked("a"), 1000.0, 1480.0)  # type: ignore[arg-type]
    assert found == ((9.0, 0.9), (25.0, 0.1235))


def test_a_panel_that_is_empty_for_no_known_reason_is_an_error() -> None:
    assert record._reasons([asked("g", "GPU power")]) == {"g": "no GPU in this run"}
    with pytest.raises(CodesignError, match="no data for made / Shown / legend: mend the query"):
        record._reasons([asked("g", "GPU power"), asked("a")])


def test_the_load_is_told_in_words() -> None:
    said = "clients: none from 0:00, 2 from 0:30, 6 from 2:05, none from 3:05"
    assert record.told(((30, 0), (95, 2), (60, 6))) == said


def test_the_load_ends_within_the_time_recorded() -> None:
    assert sum(seconds for seconds, _ in record.LOAD) < record.STEP_S * (record.INSTANTS - 1)


@pytest.mark.parametrize(
    ("vllm", "said"),
    [
        (
            None,
            "vLLM is not installed: run `make setup`, then .venv/bin/python "
            "-m docs.pictures.record",
        ),
        (object(), "no prometheus here: apt-get install prometheus (no service needed)"),
    ],
)
def test_without_what_it_needs_one_line_says_so(
    vllm: object, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: vllm)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert record.main() == 1
    assert capsys.readouterr().err == f"codesign: {said}\n"


def test_every_query_is_told_from_the_others_by_its_text() -> None:
    """A figure and a line would want different answers; the recording has one for each text."""
    single = {each.expr for each in promql() if "$__range" in each.expr}
    assert single
    assert not [expr for expr in single if "$__rate_interval" in expr]
