"""Every file of deploy/: it parses, its images are pinned, and no password stands in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import DEPLOY, KUBERNETES, documents, yaml_files

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
    assert set(re.findall(r"VLLM_TAG: (\S+)", text)) == {"v0.32.0"}
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
