"""Every file of deploy/: it parses, its images are pinned, and no password stands in it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import environment_variables as api
from opentelemetry.sdk import environment_variables as sdk

from tests.deploy.files import DEPLOY, KUBERNETES, documents, yaml_files
from vllm_codesign import settings

SECRET = re.compile(r"(?i)password|token|secret")


def _values(node: Any, key: str = "") -> list[tuple[str, str]]:
    """Every string below `node` with the key that it stands under."""
    if isinstance(node, dict):
        if isinstance(node.get("name"), str) and "value" in node:
            return [(node["name"], str(node["value"]))]
        return [found for k, value in node.items() for found in _values(value, str(k))]
    if isinstance(node, list):
        return [found for value in node for found in _values(value, key)]
    return [(key, node)] if isinstance(node, str) else []


def _ids(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


@pytest.mark.parametrize("path", yaml_files(), ids=_ids)
def test_it_parses_and_names_nothing_twice(path: Path) -> None:
    assert all(documents(path.read_text()))


@pytest.mark.parametrize("path", yaml_files(), ids=_ids)
def test_images_are_pinned_and_secrets_come_from_outside(path: Path) -> None:
    values = [v for document in documents(path.read_text()) for v in _values(document)]
    # The base's image is a name for the overlays to replace; test_kubernetes looks at what comes
    # of it.
    images = [value for key, value in values if key == "image" and value != "vllm-codesign"]
    assert [i for i in images if not re.fullmatch(r"[a-z0-9./-]+:v?\d+(\.\d+){2,3}", i)] == []
    literal = [(k, v) for k, v in values if SECRET.search(k) and not v.startswith("${")]
    assert [found for found in literal if found[0] not in ("automountServiceAccountToken",)] == []


def test_one_version_of_the_collector_and_of_vllm() -> None:
    text = "\n".join(p.read_text() for p in yaml_files())
    assert set(re.findall(r"opentelemetry-collector-contrib:(\S+)", text)) == {"0.161.0"}
    assert set(re.findall(r"VLLM_TAG: (\S+)", text)) == {'"${VLLM_TAG:-v0.32.0}"'}
    for dockerfile in DEPLOY.glob("*/Dockerfile"):
        assert "ARG VLLM_TAG=v0.32.0" in dockerfile.read_text().splitlines()


def test_the_readme_names_every_image_as_it_is_pinned() -> None:
    text = "\n".join(p.read_text() for p in yaml_files())
    images = set(re.findall(r"image: (\S+/\S+:\S+)", text))
    readme = (DEPLOY / "README.md").read_text()
    assert len(images) == 6
    assert [i for i in images if f"`{i}`" not in readme] == []


def test_the_images_of_the_plugin_carry_its_version() -> None:
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    version = re.findall(r'^version = "(.+)"', project, re.M)
    text = "\n".join(p.read_text() for p in yaml_files())
    assert re.findall(r"image: vllm-codesign-\w+:(\S+)", text) == version * 3
    tags = [p.read_text() for p in sorted(KUBERNETES.glob("overlays/*/kustomization.yaml"))]
    assert [re.findall(r"newTag: (\S+)", tag) for tag in tags] == [version] * 3


def _names(prefix: str) -> set[str]:
    text = "\n".join(p.read_text() for p in yaml_files())
    own_line = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return set(re.findall(rf"(?:^ *|name: |\{{)({prefix}\w+)", own_line, re.M))


def test_variables_of_the_plugin_are_those_of_settings() -> None:
    known = {value for name, value in vars(settings).items() if name.startswith("ENV_")}
    asked = _names("CODESIGN_")
    assert asked == {settings.ENV_STORE, settings.ENV_METRICS_PORT}
    assert asked <= known


def test_variables_of_opentelemetry_are_its_own() -> None:
    known = {v for module in (api, sdk) for v in vars(module).values() if isinstance(v, str)}
    asked = _names("OTEL_")
    assert {sdk.OTEL_SERVICE_NAME, sdk.OTEL_RESOURCE_ATTRIBUTES} <= asked
    assert asked <= known


def test_variables_of_vllm_are_those_that_it_reads() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        pytest.skip("vLLM is not here")
    known = (Path(found.submodule_search_locations[0]) / "envs.py").read_text()
    asked = _names("VLLM_") - {"VLLM_TAG", "VLLM_IMAGE"}
    assert asked == {"VLLM_PLUGINS", "VLLM_NO_USAGE_STATS", "VLLM_CPU_KVCACHE_SPACE"}
    assert [name for name in asked if f'"{name}"' not in known] == []
