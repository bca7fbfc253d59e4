"""Rules and alerts: only what exists, a runbook section for each alert, promtool's own tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dashboards.known import problems, series
from tests.support.prometheus import FOLDER, read_yaml, rules_in
from tests.support.serving import REPOSITORY

RUNBOOK = REPOSITORY / "docs" / "runbook.md"
TESTS = sorted((FOLDER / "tests").glob("*.yml"))


def _known() -> dict[str, frozenset[str]]:
    """With the recorded series; their labels are those that their rule keeps."""
    found = series()
    for rule in rules_in("rules.yml"):
        kept = re.search(r"by \(([^)]*)\)", rule["expr"].replace("le, ", ""))
        assert kept, rule["record"]
        found[rule["record"]] = frozenset(kept[1].split(", "))
    return found


def test_rules_ask_only_for_what_exists() -> None:
    known = _known()
    found = {
        rule.get("record") or rule["alert"]: problems(rule["expr"], known)
        for name in ("rules.yml", "alerts.yml")
        for rule in rules_in(name)
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_labels_in_a_summary_are_those_of_its_alert() -> None:
    known = _known()
    for alert in rules_in("alerts.yml"):
        metric = re.search(r"[a-z_]+(?::[a-z_0-9]+)+|codesign_\w+|\bup\b", alert["expr"])
        assert metric, alert["expr"]
        for label in re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]):
            assert label in known[metric[0]], (alert["alert"], label)


def test_every_alert_has_its_section_in_the_runbook() -> None:
    """MkDocs makes an anchor of a heading: its letters, small."""
    headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.M)
    alerts = [alert["alert"] for alert in rules_in("alerts.yml")]
    assert headings == alerts
    for alert in rules_in("alerts.yml"):
        assert alert["annotations"]["runbook_url"] == f"runbook.html#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in ("warning", "critical")


def test_every_section_says_what_it_means_and_what_to_do() -> None:
    for section in RUNBOOK.read_text().split("\n## ")[1:]:
        for words in ("**It means**", "**Look at**", "**do**", "**Do**"):
            if words.lower() not in section.lower():
                pytest.fail(f"{section.splitlines()[0]}: no {words}")


def test_every_panel_that_the_runbook_names_exists() -> None:
    titles = {
        title
        for path in (REPOSITORY / "dashboards").glob("*.json")
        for title in re.findall(r'"title": "(.*)"', path.read_text())
    }
    text = re.sub(r"`[^`]*`|\*\*[^*]+\*\*", "", " ".join(RUNBOOK.read_text().split()))
    named = set(re.findall(r"\*([^*]+)\*", text)) - {"waited"}  # a series, of a panel named there
    assert named
    assert named - titles == set()


def test_every_alert_fires_in_a_test_and_stays_quiet_in_one() -> None:
    tested: dict[str, set[bool]] = {}
    for path in TESTS:
        for test in read_yaml(path)["tests"]:
            for each in test.get("alert_rule_test", ()):
                tested.setdefault(each["alertname"], set()).add(bool(each["exp_alerts"]))
    assert tested == {alert["alert"]: {True, False} for alert in rules_in("alerts.yml")}


def test_every_recorded_value_is_in_a_test() -> None:
    texts = "".join(path.read_text() for path in TESTS)
    alerts = (FOLDER / "alerts.yml").read_text()
    for rule in rules_in("rules.yml"):
        assert rule["record"] in texts or rule["record"] in alerts, rule["record"]


def _promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("no promtool here: .ci/without-services apt-get install prometheus")
    return subprocess.run([binary, *arguments], capture_output=True, text=True)


def test_promtool_accepts_configuration_and_rules() -> None:
    run = _promtool("check", "config", FOLDER / "prometheus.yml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "10 rules found" in run.stdout
    assert "8 rules found" in run.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_promtool_unit_tests(path: Path) -> None:
    run = _promtool("test", "rules", path)
    assert run.returncode == 0, run.stdout + run.stderr
