"""A real Prometheus on a loopback port, and what its API answers."""

from __future__ import annotations

import json
import math
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import REPOSITORY
from vllm_codesign.bench.server import Server, free_port

# vLLM brings it; without vLLM these tests are left out.
yaml = pytest.importorskip("yaml")

FOLDER = REPOSITORY / "deploy" / "prometheus"
CONFIG = FOLDER / "prometheus.yml"

Labels = tuple[tuple[str, str], ...]


def rules_in(name: str) -> list[dict[str, Any]]:
    """All rules of one of the repository's files."""
    groups = read_yaml(FOLDER / name)["groups"]
    return [rule for group in groups for rule in group["rules"]]


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def labels(of: Mapping[str, str]) -> Labels:
    return tuple(sorted((k, v) for k, v in of.items() if k != "__name__"))


@dataclass(frozen=True)
class Prometheus:
    """What is asked of it. Values that are not a number count as none."""

    url: str

    def value(self, query: str, at_s: float) -> dict[Labels, float]:
        """Series to value at one time; without NaN and infinity, which 0 / 0 and 1 / 0 give."""
        found = self._get("query", query=query, time=f"{at_s:.3f}")
        values = {labels(each["metric"]): float(each["value"][1]) for each in found["result"]}
        return {series: value for series, value in values.items() if math.isfinite(value)}

    def points(self, query: str, start_s: float, end_s: float, step_s: float) -> int:
        """How many numbers a panel of this time would draw."""
        found = self.over(query, start_s, end_s, step_s)
        return sum(len(values) for values in found.values())

    def over(
        self, query: str, start_s: float, end_s: float, step_s: float
    ) -> dict[Labels, dict[float, float]]:
        """Series to Unix time to value, in Prometheus' order; without NaN and infinity."""
        found = self._get(
            "query_range", query=query, start=f"{start_s:.3f}", end=f"{end_s:.3f}", step=step_s
        )
        return {
            labels(each["metric"]): {
                float(at): float(value)
                for at, value in each["values"]
                if math.isfinite(float(value))
            }
            for each in found["result"]
        }

    def version(self) -> str:
        """Its own."""
        return str(self._get("status/buildinfo")["version"])

    def exemplars(self, query: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """All exemplars of the series that a query asks for."""
        found = self._get(
            "query_exemplars", query=query, start=f"{start_s:.3f}", end=f"{end_s:.3f}"
        )
        return [exemplar for series in found for exemplar in series["exemplars"]]

    def label_values(self, metric: str, label: str) -> list[str]:
        """What a variable of a dashboard has to choose from."""
        found = self._get(f"label/{label}/values", **{"match[]": metric})
        assert isinstance(found, list)
        return found

    def rules(self) -> list[dict[str, Any]]:
        """All rules of all groups, as they went."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def targets(self) -> dict[str, str]:
        """Job to the health of its target."""
        active = self._get("targets")["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in active}

    def _get(self, what: str, **parameters: Any) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert answer["status"] == "success", answer
        return answer["data"]


class _Server(Server):
    name = "Prometheus"
    health = "/-/ready"


@contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, str], interval: str = "500ms"
) -> Iterator[Prometheus]:
    """The repository's configuration and rules; `targets` has the address of each of its jobs.

    Skips where Debian's `prometheus` is not installed.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no prometheus here: .ci/without-services apt-get install prometheus")
    config = read_yaml(CONFIG)
    config["global"] |= {"scrape_interval": interval, "scrape_timeout": interval}
    config["global"]["evaluation_interval"] = "1s"
    config["rule_files"] = []
    for name in ("rules.yml", "alerts.yml"):
        rules = read_yaml(FOLDER / name)
        for group in rules["groups"]:
            group["interval"] = "1s"
        (folder / name).write_text(yaml.safe_dump(rules))
        config["rule_files"].append(str(folder / name))
    for job in config["scrape_configs"]:
        job["static_configs"][0]["targets"] = [targets[job["job_name"]]]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    port = free_port()
    command = (
        *(binary, f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage"),
    )
    with _Server(
        command,
        port,
        env={},
        log_path=folder / "prometheus.log",
        timeout_s=60,
        progress=lambda _line: None,
    ) as server:
        yield Prometheus(server.url)


def wait_for_scrapes(server: Prometheus, timeout_s: float = 30) -> None:
    """Until every target was scraped."""
    deadline = time.monotonic() + timeout_s
    while set(health := server.targets().values()) != {"up"}:
        assert time.monotonic() < deadline, health
        time.sleep(0.2)
