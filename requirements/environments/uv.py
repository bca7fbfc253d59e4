"""uv in an environment of its own, and what pip knows and uv has to be told."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from . import paths
from .programs import run, say, succeeds

UV_VENV = paths.CACHE / "uv"
UV = UV_VENV / "bin" / "uv"
UV_VERSION = "0.13.9"

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
