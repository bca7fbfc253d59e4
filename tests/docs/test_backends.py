"""Queries, policies and dimensions ask for attributes that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vllm_codesign import semconv as S

yaml = pytest.importorskip("yaml")  # vLLM brings it

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "backends.md"
COLLECTOR = ROOT / "deploy" / "collector"
EVENTS = {S.EVENT_PREEMPTED, S.EVENT_EVICTED, S.EVENT_STORED}


def declared() -> dict[str, str]:
    found = {}
    for value in vars(S).values():
        group = value if isinstance(value, tuple) else (value,)
        found.update({each.key: each.type for each in group if isinstance(each, S.Attribute)})
    return found


def test_the_pages_queries_ask_for_what_there_is() -> None:
    page = PAGE.read_text()
    asked = re.findall(r"span\.((?:codesign|gen_ai|session)\.[a-z_.]*[a-z_])", page)
    asked += re.findall(r"`((?:codesign|session)\.[a-z_.]+)=", page)
    assert len(asked) >= 12
    assert {key for key in asked if key not in declared()} == set()
    assert set(re.findall(r'event:name = "([\w.]+)"', page)) <= EVENTS
    spans = {span.name for span in (*S.SPANS, *S.STEP_SPANS)}
    named = set(re.findall(r'\{ name = "([\w.]+)"', page))
    assert named
    assert named <= spans
    values = {outcome.value for outcome in S.Outcome} | {part.value for part in S.Part}
    values |= {reason.value for reason in S.QueueReason}
    assert set(re.findall(r'codesign\.[\w.]+ ?= ?"?([a-z_.]+)', page)) <= values


@pytest.mark.parametrize("name", ["agent", "gateway"])
def test_the_collectors_ask_for_what_there_is(name: str) -> None:
    text = (COLLECTOR / f"{name}.yaml").read_text()
    config = yaml.safe_load(text)
    asked = re.findall(r'attributes\["([^"]+)"\]', text)
    dimensions = config.get("connectors", {}).get("span_metrics", {}).get("dimensions", [])
    asked += [each["name"] for each in dimensions]
    assert asked
    assert {key for key in asked if key not in declared()} == set()


def test_every_component_that_is_configured_is_used() -> None:
    for name in ("agent", "gateway"):
        config = yaml.safe_load((COLLECTOR / f"{name}.yaml").read_text())
        used = set(config["service"]["extensions"])
        for pipeline in config["service"]["pipelines"].values():
            for key in ("receivers", "processors", "exporters"):
                used |= set(pipeline.get(key, ()))
        kinds = ("receivers", "processors", "exporters", "connectors", "extensions")
        assert {part for kind in kinds for part in config.get(kind, {})} == used
