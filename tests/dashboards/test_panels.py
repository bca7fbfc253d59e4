"""Every panel and every rule on a real run: vLLM, the plugin, Prometheus, one capture."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dashboards.promql import selectors
from tests.support.captured import Captured
from tests.support.observed import (
    ARM,
    MODEL,
    NO_DATA,
    NO_DATA_QUERIES,
    load,
    observed,
    send,
)
from tests.support.panels import Asked, promql, traceql, variables
from tests.support.prometheus import Labels, Prometheus, labels
from tests.support.serving import read_all
from tests.support.shown import expected
from vllm_codesign.store.reader import read_steps

pytestmark = [pytest.mark.full, pytest.mark.timeout(1500)]

DRAWN_S = 15
"""What Grafana takes for the window of a rate while it draws."""
QUIET_S = 2.0
"""A rate begins with the first scrape in its window: what came before that is not in it."""
MIN_WINDOW_S = 120.0
"""Prometheus' rates are as sharp as two scrapes are short against the window."""
TOLERANCE = 0.02

TEMPO = "asks Tempo, which is not here; its attributes are checked by test_generate.py"


@dataclass(frozen=True)
class Run:
    """A window with a load in it, at rest at both ends."""

    server: Prometheus
    captured: Captured
    model: str
    start_s: float
    end_s: float

    @property
    def window(self) -> str:
        return f"{round((self.end_s - self.start_s) * 1000)}ms"

    def value(self, query: Asked) -> dict[Labels, float]:
        return self.server.value(query.filled(self.window), self.end_s)

    def began_before(self, query: Asked) -> set[Labels]:
        """Series that were there at the window's start: of others a rate misses the beginning."""
        return {
            labels(dict(series)) for series in self.server.value(query.filled("600s"), self.start_s)
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    folder = tmp_path_factory.mktemp("panels")
    with observed(folder) as running:
        serving = running.serving
        send(serving, load(40, seed=3))
        start_s, ahead_ns = time.time(), time.monotonic_ns() - time.time_ns()
        time.sleep(QUIET_S)
        send(serving, load(80, seed=4))
        time.sleep(max(0.0, start_s + MIN_WINDOW_S - time.time()))
        end_s = time.time()
        time.sleep(2.0)
        traces = read_all(serving.capture).all
        steps = list(read_steps(serving.capture))
        print(f"from {start_s} to {end_s}, {len(traces)} traces in {serving.capture.path}")
        captured = Captured(traces, steps, start_s, end_s, ahead_ns)
        yield Run(running.prometheus, captured, MODEL, start_s, end_s)


def test_every_panel_has_data_or_a_reason(run: Run) -> None:
    """As Grafana asks: a range of time, with a rate's window of a few scrapes."""
    empty = []
    for query in promql():
        drawn = query.filled(f"{DRAWN_S}s")
        if not run.server.points(drawn, run.start_s, run.end_s, 5):
            empty.append(query)
    reasons = {
        query.name: NO_DATA.get(query.panel) or NO_DATA_QUERIES.get(query.name) for query in empty
    }
    for name, reason in sorted(reasons.items()):
        print(f"no data: {name}: {reason}")
    for title, _ in traceql():
        print(f"not asked: traces / {title}: {TEMPO}")
    assert {name for name, reason in reasons.items() if reason is None} == set()
    # What has data now has no excuse left.
    assert {query.panel for query in empty} >= set(NO_DATA)
    assert {query.name for query in empty} >= set(NO_DATA_QUERIES)


def test_panels_show_what_the_capture_has(run: Run) -> None:
    """Within 2 %; a series that began in the window is left out, of a rate misses its beginning."""
    asked = {(q.dashboard, q.panel, q.legend): q for q in promql()}
    wrong, compared, young, worst = [], 0, 0, 0.0
    for key, wanted in expected(run.captured, run.model).items():
        query = asked[key]
        shown, before = run.value(query), run.began_before(query)
        for series in sorted({*wanted, *shown}):
            want, have = wanted.get(series, 0.0), shown.get(series, 0.0)
            if series not in before and series not in shown:
                young += 1
                continue
            compared += 1
            off = abs(have - want) / want if want else abs(have)
            if off > TOLERANCE and series not in before:
                young += 1
            elif off > TOLERANCE:
                wrong.append(f"{' / '.join(key)} {dict(series)}: {have:.6g}, capture {want:.6g}")
            else:
                worst = max(worst, off)
    print(
        f"{compared} series of {len(asked)} queries compared over {run.window}; "
        f"{young} began in the window; the worst of the others is off by {worst:.2%}"
    )
    assert not wrong, "\n".join(wrong)
    assert compared > 100
    assert young < compared / 20


def test_exemplars_are_requests_of_the_capture(run: Run) -> None:
    known = {f"{trace.trace_id:032x}" for trace in run.captured.traces}
    asked = [query for query in promql() if query.exemplars]
    assert len(asked) >= 5
    for query in asked:
        found = run.server.exemplars(query.filled("60s"), run.start_s, run.end_s)
        ids = {exemplar["labels"]["trace_id"] for exemplar in found}
        assert ids, query.name
        assert ids <= known, query.name


def test_variables_have_values_and_choose(run: Run) -> None:
    values = {}
    for name, query in variables():
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert match, query
        values[name] = run.server.label_values(*match.groups())
    assert run.model in values["model"]
    assert (values["instance"], values["arm"]) == (["vllm-0"], [ARM])
    chosen = {"instance": "(vllm-0|vllm-1)", "arm": f"({ARM}|other)"}
    for query in promql():
        every = run.value(query)
        some = run.server.value(query.filled(run.window, **chosen), run.end_s)
        assert some.keys() == every.keys(), query.name
        none = run.server.value(query.filled(run.window, instance="vllm-9"), run.end_s)
        assert not none, query.name


def test_every_rule_has_data(run: Run) -> None:
    """Recorded ones a value; alerts all that they ask for."""
    rules = run.server.rules()
    assert len(rules) == 18
    for rule in rules:
        assert rule["health"] == "ok", rule
        for selector in selectors(rule["query"]):
            assert run.server.value(selector.metric, run.end_s), (rule["name"], selector.metric)
        if rule["type"] == "recording":
            found = run.server.value(rule["name"], run.end_s)
            print(rule["name"], {str(dict(k)): round(v, 5) for k, v in found.items()})
            assert found, rule["name"]
