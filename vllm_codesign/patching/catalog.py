"""The patches that this installation brings, found in a wheel and in a checkout alike."""

from __future__ import annotations

import importlib.resources
import re
from importlib.resources.abc import Traversable
from pathlib import Path

import vllm_codesign
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.patching.patch_file import Patch, parse

_VERSION = re.compile(r"vllm-(\d[\w.]*)")
_NAME = re.compile(r"(\d{4}-[\w.-]+)\.patch")


def shipped() -> list[Patch]:
    """All of them, by version and number; raises CodesignError where one is not fit for use."""
    return read(_folder())


def read(folder: Traversable) -> list[Patch]:
    """Patches in `folder`, as `vllm-VERSION/NNNN-slug.patch`; other files are no patches."""
    found = []
    for versions in folder.iterdir():
        version = _VERSION.fullmatch(versions.name)
        if version is None or not versions.is_dir():
            continue
        for file in versions.iterdir():
            name = _NAME.fullmatch(file.name)
            if name is not None:
                found.append(parse(_bytes(file), name[1], version[1], str(file)))
    return sorted(found, key=lambda patch: (_order(patch.version), patch.name))


def _folder() -> Traversable:
    inside = importlib.resources.files("vllm_codesign.patching") / "patches"
    if inside.is_dir():
        return inside
    # The wheel has them inside (pyproject.toml); an editable installation is the checkout itself.
    checkout = Path(vllm_codesign.__file__).parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / "patches").is_dir():
        return checkout / "patches"
    raise CodesignError(f"no patches beside {vllm_codesign.__file__}: reinstall vllm-codesign")


def _bytes(file: Traversable) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CodesignError(f"cannot read {file}: {error.strerror}") from error


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
