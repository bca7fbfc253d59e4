"""Every query of every panel and every rule, asked of a real Prometheus with every metric there.

The values are made up (`tests/support/exposition.py`): a query that is no PromQL, or whose sides
do not match, has no answer here. Answers from a real server are `test_panels.py`'s.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from dashboards.promql import selectors
from tests.support.exposition import exposed
from tests.support.panels import promql, variables
from tests.support.prometheus import Prometheus, prometheus, rules_in, wait_for_scrapes

SCRAPES_S = 4.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        exposed() as address,
        exposed() as other,
        prometheus(folder, {"codesign": address, "vllm": other}) as running,
    ):
        wait_for_scrapes(running)
        time.sleep(SCRAPES_S)
        yield running


def test_every_panel_has_an_answer(server: Prometheus) -> None:
    now = time.time()
    empty = [q.name for q in promql() if not server.value(q.filled("3s"), now)]
    assert not empty


def test_several_values_of_a_variable_match_as_all_does(server: Prometheus) -> None:
    """Grafana puts the chosen ones as `(a|b)`."""
    now = time.time() - 1
    for query in promql():
        chosen = {"model": "(tiny|large)", "instance": "(vllm-0|vllm-1)", "arm": "(hbm|lmcache)"}
        every = server.value(query.filled("3s"), now)
        assert server.value(query.filled("3s", **chosen), now) == every, query.name
        assert not server.value(query.filled("3s", instance="vllm-9"), now), query.name


def test_every_variable_has_values(server: Prometheus) -> None:
    found = {}
    for name, query in variables():
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert match, query
        found[name] = server.label_values(*match.groups())
    assert found == {"model": ["large", "tiny"], "instance": ["vllm-0"], "arm": ["hbm"]}


def test_every_rule_has_an_answer(server: Prometheus) -> None:
    """Recorded ones a value; alerts all that they ask for, whether they fire or not."""
    wanted = {}
    for name in ("rules.yml", "alerts.yml"):
        for rule in rules_in(name):
            wanted[rule.get("record") or rule["alert"]] = rule["expr"]
    went = {rule["name"]: rule for rule in server.rules()}
    now = time.time()
    for name, expression in wanted.items():
        assert went[name]["health"] == "ok", went[name]
        for selector in selectors(expression):
            assert server.value(selector.metric, now), (name, selector.metric)
        if ":" in name:
            assert server.value(name, now), name
