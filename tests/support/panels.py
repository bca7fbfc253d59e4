"""The dashboards' panels and their queries, as Grafana would ask them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.serving import REPOSITORY

FOLDER = REPOSITORY / "dashboards"
ALL = ".*"


@dataclass(frozen=True)
class Asked:
    """One query of one panel."""

    dashboard: str
    panel: str
    legend: str
    expr: str
    exemplars: bool

    @property
    def name(self) -> str:
        return f"{self.dashboard} / {self.panel} / {self.legend}"

    def filled(self, window: str, **chosen: str) -> str:
        """With every variable in its place; what is not chosen is all."""
        found = self.expr
        for name in ("model", "instance", "arm"):
            found = found.replace(f'"${name}"', f'"{chosen.get(name, ALL)}"')
        return found.replace("$__rate_interval", window).replace("$__range", window)


def promql() -> Iterator[Asked]:
    """Every PromQL query of every dashboard."""
    for path in sorted(FOLDER.glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                if "expr" in target:
                    yield Asked(
                        path.stem,
                        panel["title"],
                        target["legendFormat"],
                        target["expr"],
                        target.get("exemplar", False),
                    )


def traceql() -> Iterator[tuple[str, str]]:
    """Title and TraceQL of every panel that asks Tempo."""
    for path in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                if "query" in target:
                    yield panel["title"], target["query"]


def variables() -> Iterator[tuple[str, str]]:
    """Name and query of every variable that Prometheus fills."""
    for path in sorted(FOLDER.glob("*.json")):
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                yield variable["name"], variable["query"]
