"""One virtual environment: whole, or made whole."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path

from . import paths
from .programs import SetupError, digest, run, say, succeeds
from .uv import UV


class Environment:
    """One virtual environment and the note in it that says what it was built from."""

    def __init__(self, name: str) -> None:
        self.path = paths.ROOT / name
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
            "a package is incomplete in uv's cache too; run"
            f" `{UV.relative_to(paths.ROOT)} cache clean` and set up again"
        )


def install_project(environment: Environment, env: dict[str, str]) -> None:
    """This checkout, editable. hatchling is among the pinned requirements: no build isolation."""
    key = digest(paths.ROOT / "pyproject.toml", str(environment.path))
    if environment.stamps().get("project") == key and environment.installed("vllm-codesign"):
        return
    say("installing vllm-codesign from this checkout")
    run(
        *(UV, "pip", "install", "--quiet", "--python", environment.python),
        *("--no-deps", "--no-build-isolation", "--editable", paths.ROOT),
        env=env,
    )
    environment.stamp("project", key)
