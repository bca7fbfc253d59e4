"""What Grafana is provisioned with: Grafana publishes no schema for it, so its keys are here."""

from __future__ import annotations

import json
import re

import pytest

from tests.deploy.files import COMPOSE, PROFILES, ROOT, load, project
from vllm_codesign.semconv import metrics as M
from vllm_codesign.semconv.spans import REQUEST_MODEL

DATASOURCES = load(COMPOSE / "grafana" / "datasources" / "codesign.yaml")
PROVIDERS = load(COMPOSE / "grafana" / "dashboards" / "codesign.yaml")
DASHBOARDS = sorted((ROOT / "dashboards").glob("*.json"))
BY_UID = {source["uid"]: source for source in DATASOURCES["datasources"]}

SOURCE_KEYS = {"name", "uid", "type", "access", "url", "isDefault", "editable", "jsonData"}
PROVIDER_KEYS = {
    *("name", "type", "folder", "folderUid", "allowUiUpdates"),
    *("disableDeletion", "updateIntervalSeconds", "options"),
}


def test_the_files_have_the_shape_that_grafana_reads() -> None:
    assert set(DATASOURCES) == {"apiVersion", "prune", "datasources"}
    assert set(PROVIDERS) == {"apiVersion", "providers"}
    assert DATASOURCES["apiVersion"] == PROVIDERS["apiVersion"] == 1
    for source in DATASOURCES["datasources"]:
        assert set(source) <= SOURCE_KEYS
        assert {"name", "uid", "type", "access", "url"} <= set(source)
        assert source["access"] == "proxy"
    assert {uid: source["type"] for uid, source in BY_UID.items()} == {
        "prometheus": "prometheus",
        "tempo": "tempo",
        "jaeger": "jaeger",
    }
    assert [uid for uid, source in BY_UID.items() if source.get("isDefault")] == ["prometheus"]
    (provider,) = PROVIDERS["providers"]
    assert set(provider) == PROVIDER_KEYS


def test_an_exemplar_leads_to_its_trace() -> None:
    (link,) = BY_UID["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert link["name"] == "trace_id"
    assert BY_UID[link["datasourceUid"]]["type"] == "tempo"


def test_a_trace_leads_to_metrics_that_exist() -> None:
    link = BY_UID["tempo"]["jsonData"]["tracesToMetrics"]
    assert BY_UID[link["datasourceUid"]]["type"] == "prometheus"
    (tag,) = link["tags"]
    assert (tag["key"], tag["value"]) == (REQUEST_MODEL.key, M.prometheus_label(REQUEST_MODEL))
    known = {M.prometheus_name(m): m for m in M.METRICS}
    asked = {q["name"]: re.findall(r"(\w+)\{", q["query"]) for q in link["queries"]}
    assert len(asked) == 2
    for name, (found,) in asked.items():
        metric = known[found.removesuffix("_bucket")]
        assert (metric.instrument == "histogram") == found.endswith("_bucket"), name
        assert REQUEST_MODEL in metric.attributes, name
    # `$` alone would be a variable of Grafana's own environment.
    queries = [q["query"] for q in link["queries"]]
    assert all(re.findall(r"\$+\w+", query) == ["$$__tags"] for query in queries)


@pytest.mark.parametrize("profile", PROFILES)
def test_dashboards_are_where_the_provider_looks(profile: str) -> None:
    grafana = project(profile)["services"]["grafana"]
    mounts = {v["target"]: v["source"] for v in grafana["volumes"]}
    (provider,) = PROVIDERS["providers"]
    assert mounts[provider["options"]["path"]] == str(ROOT / "dashboards")
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    folder, _, name = home.rpartition("/")
    assert folder == provider["options"]["path"]
    assert name in {p.name for p in DASHBOARDS}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.name)
def test_a_dashboard_asks_for_data_sources_that_are_there(path: object) -> None:
    text = path.read_text()  # type: ignore[attr-defined]
    dashboard = json.loads(text)
    variables = {
        v["name"]: v["query"] for v in dashboard["templating"]["list"] if v["type"] == "datasource"
    }
    types = {source["type"] for source in BY_UID.values()}
    assert variables
    assert set(variables.values()) <= types
    asked = set(re.findall(r'"uid": "([^"]+)"', text)) - {dashboard["uid"]}
    for uid in asked:
        name = re.fullmatch(r"\$\{(\w+)\}", uid)
        assert uid in BY_UID if name is None else name[1] in variables, uid


def test_nobody_signs_in_with_a_default_password() -> None:
    environ = project("cpu")["services"]["grafana"]["environment"]
    assert environ["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environ["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Editor"
    assert environ["GF_AUTH_BASIC_ENABLED"] == "false"
    assert not [name for name in environ if "PASSWORD" in name]
