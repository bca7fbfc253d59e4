"""Environments of exactly what a list pins, and how the lists are made."""

from __future__ import annotations

import shutil
import sys

from . import paths
from .environment import Environment, expect_whole, install_project, prepare
from .machine import ROOM_PINS, check_machine, check_room
from .programs import digest, run, say
from .uv import UV, UV_VERSION, bootstrap_uv, uv_environment
from .with_vllm import VERSIONS

OTEL = "otel-1.40"
DOCS = "docs"
_CUDA_ONLY = ("torch==", "triton==", "nvidia-", "cuda-")


def set_up_otel() -> None:
    """The plugin's own requirements at the oldest OpenTelemetry it supports; no vLLM, no torch."""
    environment = set_up_pins(OTEL, "the plugin's requirements with OpenTelemetry 1.40")
    install_project(environment, uv_environment())
    say(f"{environment.path.name} is ready")


def set_up_docs() -> None:
    """What builds the site; apart from the package, whose requirements it would only narrow."""
    environment = set_up_pins(DOCS, "mkdocs-material and what it needs")
    say(f"{environment.path.name} is ready")


def set_up_pins(name: str, what: str) -> Environment:
    """`.venv-NAME` with exactly what `NAME.txt` pins."""
    environment = Environment(f".venv-{name}")
    pins = paths.REQUIREMENTS / f"{name}.txt"
    key = digest(pins, sys.version_info[:2], UV_VERSION)
    check_machine(vllm=False)
    ready = environment.stamps().get("packages") == key and environment.runs()
    if not ready:
        check_room(environment.path, ROOM_PINS, "the environment")
    bootstrap_uv()
    if not ready:
        env = uv_environment()
        prepare(environment, env)
        say(f"installing {what}")
        run(
            *(UV, "pip", "install", "--python", environment.python, "--no-deps", "-r", pins),
            env=env,
        )
        expect_whole(environment)
        environment.stamp("packages", key)
    return environment


def lock() -> None:
    """Compile the .in files. Names and versions only: no index address is written."""
    bootstrap_uv()
    env = uv_environment()
    for version in VERSIONS:
        torch = (paths.REQUIREMENTS / f"torch-{version}.txt").read_text().split()[0]
        body = compile_pins(f"vllm-{version}", [torch, f"-r vllm-{version}.in"], env)
        body = [line for line in body if not line.startswith(_CUDA_ONLY)]
        header = (
            "# Compiled by `make lock`; torch and what only its CUDA build needs are installed"
            f" first, from torch-{version}.txt."
        )
        write_pins(f"vllm-{version}", header, body)
    for name in (OTEL, DOCS):
        body = compile_pins(name, [f"-r {name}.in"], env)
        write_pins(name, "# Compiled by `make lock`.", body)


def compile_pins(name: str, sources: list[str], env: dict[str, str]) -> list[str]:
    """The pinned lines for these requirements; what is pinned already stays where it can."""
    source = paths.REQUIREMENTS / f".{name}.lock.in"
    output = paths.REQUIREMENTS / f".{name}.lock.txt"
    pinned = paths.REQUIREMENTS / f"{name}.txt"
    try:
        source.write_text("\n".join([*sources, ""]))
        if pinned.exists():
            shutil.copyfile(pinned, output)
        say(f"compiling {name}.txt")
        run(
            *(UV, "pip", "compile", "--quiet", "--no-annotate", "--no-header"),
            *("--python-version", "3.11", source, "--output-file", output),
            env=env,
        )
        return [line for line in output.read_text().splitlines() if not line.startswith(("#", "-"))]
    finally:
        source.unlink(missing_ok=True)
        output.unlink(missing_ok=True)


def write_pins(name: str, header: str, body: list[str]) -> None:
    (paths.REQUIREMENTS / f"{name}.txt").write_text("\n".join([header, *body, ""]))
