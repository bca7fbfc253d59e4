"""The files are what the generator writes, and its check finds what is wrong in one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dashboards.checks import check
from dashboards.generate import DASHBOARDS, FOLDER, faults, path, text
from dashboards.panels import WHEN_BAD
from dashboards.promql import selectors
from tests.support.panels import promql
from tests.support.serving import REPOSITORY
from vllm_codesign.semconv.metrics import METRICS, prometheus_name


def test_files_are_current_and_ask_only_for_what_exists() -> None:
    assert faults() == []


def test_every_metric_is_on_a_dashboard() -> None:
    asked = {selector.metric for query in promql() for selector in selectors(query.expr)}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert {m.name for m in METRICS if prometheus_name(m) not in shown} == set()


def test_the_command_says_so() -> None:
    run = subprocess.run(
        [sys.executable, "dashboards/generate.py", "--check"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("5 dashboards, ")


def test_a_stale_a_strange_and_a_missing_file_are_named(tmp_path: Path) -> None:
    for dashboard in DASHBOARDS[1:]:
        path(dashboard, tmp_path).write_text(text(dashboard))
    stale = path(DASHBOARDS[1], tmp_path)
    stale.write_text(stale.read_text().replace('"1h"', '"2h"').replace("now-1h", "now-2h"))
    strange = json.loads(text(DASHBOARDS[2]))
    (tmp_path / "strange.json").write_text(json.dumps(strange))
    assert faults(tmp_path) == [
        f"{stale.name}: not current; run `make dashboards`",
        f"{DASHBOARDS[0].name}.json: not current; run `make dashboards`",
        "strange.json: no dashboard of this name; delete it",
    ]


@pytest.fixture
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "frontend.json").read_text())
    return found


def _panel(dashboard: dict[str, Any], title: str = "Pool's utilization") -> dict[str, Any]:
    (found,) = (p for p in dashboard["panels"] if p["title"] == title)
    return dict(found)


def _changed(dashboard: dict[str, Any], **changes: Any) -> list[str]:
    """What is wrong once this panel has these values."""
    for panel in dashboard["panels"]:
        if panel["title"] == "Pool's utilization":
            panel.update(changes)
    return [line.partition(": ")[2] for line in check(dashboard)]


def _asking(dashboard: dict[str, Any], expr: str, legend: str = "__auto") -> list[str]:
    target = _panel(dashboard)["targets"][0]
    return _changed(dashboard, targets=[{**target, "expr": expr, "legendFormat": legend}])


CHOSEN = 'instance=~"$instance", codesign_arm=~"$arm"'


@pytest.mark.parametrize(
    ("expr", "wrong"),
    [
        (f"rate(codesign_pool_busy_total{{{CHOSEN}}}[1m])", "no metric codesign_pool_busy_total"),
        (
            f"codesign_phase_duration_seconds{{{CHOSEN}}}",
            "no metric codesign_phase_duration_seconds",
        ),
        (
            f'codesign_pool_threads{{{CHOSEN}, engine="0"}}',
            "codesign_pool_threads has no label engine",
        ),
        (
            f"sum by (codesign_phase) (codesign_pool_threads{{{CHOSEN}}})",
            "codesign_pool_threads has no label codesign_phase",
        ),
        (
            f"sum(codesign_pool_threads{{{CHOSEN}}}) by (le)",
            "codesign_pool_threads has no label le",
        ),
        ("vllm:num_requests_running", "vllm:num_requests_running is not of the chosen instances"),
        (
            'codesign_pool_threads{instance="$instance"}',
            "instance is matched with =: several values want =~",
        ),
        (
            f"sum(codesign_pool_threads{{{CHOSEN}}}) or vector(0)",
            "`or vector(...)` hides a metric that is missing",
        ),
        (
            f"sum(codesign_pool_threads{{{CHOSEN}}}) or on() vector(0)",
            "`or vector(...)` hides a metric that is missing",
        ),
    ],
)
def test_a_query_for_what_is_not_there(dashboard: dict[str, Any], expr: str, wrong: str) -> None:
    assert wrong in _asking(dashboard, expr)


def test_a_legend_for_a_label_that_is_summed_away(dashboard: dict[str, Any]) -> None:
    expr = f"sum by (instance) (codesign_pool_threads{{{CHOSEN}}})"
    assert _asking(dashboard, expr, "{{instance}}") == []
    assert _asking(dashboard, expr, "{{job}}") == [
        "its legend asks for job, which the expression does not keep"
    ]


def test_a_description_without_advice(dashboard: dict[str, Any]) -> None:
    wrong = "its description does not say what it shows and what to do when it looks bad"
    for description in ("", "What it shows.", f"What it shows.\n\n{WHEN_BAD}", f"{WHEN_BAD}run"):
        assert _changed(dashboard, description=description) == [wrong]


def test_a_threshold_that_changes_nothing(dashboard: dict[str, Any]) -> None:
    config = _panel(dashboard)["fieldConfig"]
    steps = [{"color": "green", "value": None}, {"color": "green", "value": 0.95}]
    config["defaults"]["thresholds"]["steps"] = steps
    assert _changed(dashboard, fieldConfig=config) == [
        "a threshold changes nothing: green before and after it"
    ]


def test_panels_over_one_another(dashboard: dict[str, Any]) -> None:
    place = _panel(dashboard, "Pool's depth")["gridPos"]
    assert _changed(dashboard, gridPos=place) == ["Pool's depth lies over Pool's utilization"]
    beyond = {**_panel(dashboard)["gridPos"], "x": 20}
    assert "Pool's utilization goes beyond column 24" in _changed(dashboard, gridPos=beyond)


def test_a_data_source_that_is_none_of_the_variables(dashboard: dict[str, Any]) -> None:
    target = _panel(dashboard)["targets"][0]
    fixed = {**target, "datasource": {"type": "prometheus", "uid": "P1809F7CD0C75ACF3"}}
    (wrong,) = _changed(dashboard, targets=[fixed])
    assert wrong.endswith("not a variable")


def test_a_variable_with_one_value_only(dashboard: dict[str, Any]) -> None:
    for variable in dashboard["templating"]["list"]:
        if variable["name"] == "arm":
            variable.update({"multi": False, "allValue": ""})
    assert [line.partition(": ")[2] for line in check(dashboard)] == [
        "the variable arm takes no several values, or not all",
        "all of the variable arm is '', not '.*'",
    ]


def test_traceql_for_an_attribute_that_no_span_has() -> None:
    traces = json.loads((FOLDER / "traces.json").read_text())
    for panel in traces["panels"]:
        if panel["title"] == "Failed":
            panel["targets"][0]["query"] = "{ span.codesign.host.waited_ns > 5 }"
    assert [line.rpartition(": ")[2] for line in check(traces)] == [
        "no span has the attribute codesign.host.waited_ns"
    ]
