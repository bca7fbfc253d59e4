"""What the tests of deploy/ read, and the tools that they ask."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML comes with vLLM's requirements")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose"
COLLECTOR = DEPLOY / "collector"
KUBERNETES = DEPLOY / "kubernetes"
PROFILES = ("cpu", "cuda", "rocm")
TOOLS = ROOT / ".cache" / "deploy"
"""Where `make test-deploy` puts what tests/deploy/build.sh builds."""
BACKENDS = ROOT / ".cache" / "backends"
"""Where `make test-backends` puts Jaeger and the Collector."""

Json = dict[str, Any]


class _Strict(yaml.SafeLoader):
    """PyYAML takes the last of two equal keys without a word."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Hashable, Any]:
    names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise yaml.MarkedYAMLError(problem=f"twice: {twice}", problem_mark=node.start_mark)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def documents(text: str) -> list[Any]:
    return list(yaml.load_all(text, _Strict))


def load(path: Path) -> Any:
    (document,) = documents(path.read_text())
    return document


def yaml_files() -> list[Path]:
    return sorted(p for pattern in ("*.yaml", "*.yml") for p in DEPLOY.rglob(pattern))


def merged(*configurations: Json) -> Json:
    """Collector configurations as it merges them: maps by key, of lists the later one."""
    result: Json = {}
    for configuration in configurations:
        for key, value in configuration.items():
            before = result.get(key)
            both = isinstance(before, dict) and isinstance(value, dict)
            result[key] = merged(before, value) if both else value
    return result


def tool(name: str, folder: Path, target: str) -> str:
    """Path of what `make TARGET` builds; where it has not been, the test is skipped."""
    if (path := folder / name).exists():
        return str(path)
    pytest.skip(f"{path.relative_to(ROOT)} is not built: make {target} (needs Go)")


def compose(
    *profiles: str, files: tuple[str, ...] = ("compose.yaml",), environ: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    """What `docker compose --profile ... config` does, without the variables of this shell."""
    flags = [word for profile in profiles for word in ("-profile", profile)]
    return subprocess.run(
        [tool("compose", TOOLS, "test-deploy"), *flags, *(str(COMPOSE / f) for f in files)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **environ},
    )


def project(*profiles: str, **options: Any) -> Json:
    done = compose(*profiles, **options)
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


def kustomize(folder: Path) -> str:
    """The manifests of a kustomization, by the pinned kustomize or by kubectl's own."""
    if (built := TOOLS / "kustomize").exists():
        command = [str(built), "build"]
    elif shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    else:
        pytest.skip("neither kustomize (make test-deploy) nor kubectl is here")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(folder: Path) -> list[Json]:
    return documents(kustomize(folder))


def telemetry_address(configuration: Json, environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of a Collector's own metrics, in the environment of its container."""
    (reader,) = configuration["service"]["telemetry"]["metrics"]["readers"]
    pull = reader["pull"]["exporter"]["prometheus"]

    def filled(value: object) -> str:
        return re.sub(r"\$\{env:(\w+):-(.*?)\}", lambda m: environ.get(m[1], m[2]), str(value))

    return filled(pull["host"]), int(filled(pull["port"]))


def environment(text: str) -> Iterator[str]:
    """Variables that a Collector configuration reads."""
    yield from re.findall(r"\$\{env:(\w+)", text)
