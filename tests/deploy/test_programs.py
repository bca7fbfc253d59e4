"""The configurations as the programs themselves read them, where these are here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.files import BACKENDS, COLLECTOR, COMPOSE, DEPLOY, KUBERNETES, load, tool, yaml


def _promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here: .ci/without-services apt-get install prometheus")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True)


def test_prometheus_takes_its_configuration_and_the_rules_that_it_names(tmp_path: Path) -> None:
    path = COMPOSE / "prometheus.yml"
    for name in load(path)["rule_files"]:
        shutil.copy(DEPLOY / "prometheus" / name, tmp_path)
    done = _promtool("check", "config", shutil.copy(path, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2 rule files found" in done.stdout


def test_prometheus_takes_the_relabelling_for_kubernetes(tmp_path: Path) -> None:
    # Debian's Prometheus is built without the discovery of pods, so fixed targets stand for it.
    configuration = load(KUBERNETES / "prometheus.yml")
    for scrape in configuration["scrape_configs"]:
        (pods,) = scrape.pop("kubernetes_sd_configs")
        assert pods == {"role": "pod", "namespaces": {"names": ["vllm-codesign"]}}
        scrape["static_configs"] = [{"targets": ["pod:1"]}]
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration))
    done = _promtool("check", "config", str(path))
    assert done.returncode == 0, done.stderr


def test_both_prometheus_configurations_name_the_jobs_alike() -> None:
    jobs = [
        {scrape["job_name"] for scrape in load(path)["scrape_configs"]}
        for path in (COMPOSE / "prometheus.yml", KUBERNETES / "prometheus.yml")
    ]
    assert jobs[0] - {"prometheus"} == jobs[1]
    assert jobs[1] == {"codesign", "vllm", "codesign-spans", "codesign-collectors"}


def test_alerts_ask_for_jobs_that_are_scraped() -> None:
    scraped = {s["job_name"] for s in load(COMPOSE / "prometheus.yml")["scrape_configs"]}
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    asked = set(re.findall(r'\bjob="([^"]+)"', text))
    assert asked
    assert asked <= scraped


def test_jaeger_takes_its_configuration() -> None:
    jaeger = tool("jaeger", BACKENDS, "test-backends")
    config = str(COMPOSE / "jaeger.yaml")
    done = subprocess.run([jaeger, "validate", "--config", config], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "files",
    [
        (COLLECTOR / "agent.yaml",),
        (COLLECTOR / "gateway.yaml",),
        (COLLECTOR / "agent.yaml", COMPOSE / "one-machine.yaml"),
        (COLLECTOR / "agent.yaml", COMPOSE / "one-machine.yaml", COLLECTOR / "clickhouse.yaml"),
        (COLLECTOR / "agent.yaml", COLLECTOR / "clickhouse.yaml"),
    ],
    ids=lambda files: "+".join(f.stem for f in files),
)
def test_the_collector_takes_what_is_put_together_for_it(files: tuple[Path, ...]) -> None:
    collector = tool("otelcol", BACKENDS, "test-backends")
    asked = {name for f in files for name in load(f).get("exporters", {})}
    has = subprocess.run([collector, "components"], capture_output=True, text=True).stdout
    if lacking := sorted(n for n in asked if f"name: {n.partition('/')[0]}\n" not in has):
        pytest.skip(f"the Collector that was built has no {', '.join(lacking)}")
    clickhouse = {
        "CLICKHOUSE_ENDPOINT": "tcp://clickhouse:9000",
        "CLICKHOUSE_USER": "codesign",
        "CLICKHOUSE_PASSWORD": "given",
    }
    arguments = [word for f in files for word in ("--config", str(f))]
    done = subprocess.run(
        [collector, "validate", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | clickhouse,
    )
    assert done.returncode == 0, done.stderr
