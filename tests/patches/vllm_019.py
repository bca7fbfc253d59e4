"""vLLM 0.19.0 where it is installed, and copies of it with the patch of this repository.

Nothing here writes into the installed package: the two files that are patched are copied, the
rest of an overlay are links.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
VERSION = "0.19.0"
(PATCH,) = (REPOSITORY / "patches" / f"vllm-{VERSION}").glob("*.patch")

FILES = ("vllm/utils/async_utils.py", "vllm/renderers/base.py")
"""What the patch changes, in the order in which the files must be replaced."""


@dataclass(frozen=True)
class Installed:
    site_packages: Path
    python: Path


def installed() -> Installed | None:
    """vLLM 0.19.0 of this interpreter, else of `make setup VERSION=0.19.0`."""
    venv = REPOSITORY / f".venv-{VERSION}"
    places = [(Path(entry), Path(sys.executable)) for entry in sys.path]
    places += [(path, venv / "bin" / "python") for path in venv.glob("lib/python3*/site-packages")]
    for place, python in places:
        # vLLM first on the path is the one that is imported, whatever comes after it.
        if (place / "vllm" / "__init__.py").exists() and _is_019(place / "vllm"):
            return Installed(place, python)
    return None


def _is_019(package: Path) -> bool:
    version = package / "_version.py"
    return version.exists() and f"version = '{VERSION}" in version.read_text()


def hashes() -> dict[str, tuple[str, str]]:
    """Of each file in the patch, in its order: git's hashes of the old and the new contents."""
    found = re.findall(
        r"^diff --git a/(\S+) b/\S+\n(?:new file mode \d+\n)?index ([0-9a-f]+)\.\.([0-9a-f]+)",
        PATCH.read_text(),
        re.MULTILINE,
    )
    return {name: (old, new) for name, old, new in found}


def git(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """git in `cwd`, which need not be a repository and does not belong to one around it."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(cwd.resolve().parent)}
    return subprocess.run(
        ["git", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def hash_of(path: Path) -> str:
    """git's hash of a file's contents, as the patch's `index` lines have it."""
    return git("hash-object", path.resolve(), cwd=path.resolve().parent).stdout.strip()


def copy_sources(of: Installed, to: Path) -> None:
    for name in FILES:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((of.site_packages / name).read_bytes())


def overlay(of: Installed, to: Path) -> Path:
    """A folder for PYTHONPATH whose `vllm` is the installed one, its two files copied."""
    # These first, so that nothing on the way to a copied file is a link to the installed one.
    copy_sources(of, to)
    for folder in sorted({parent for name in FILES for parent in Path(name).parents[:-1]}):
        for entry in (of.site_packages / folder).iterdir():
            link = to / folder / entry.name
            if entry.name != "__pycache__" and not link.exists():
                link.symlink_to(entry)
    return to


def module_of(tree: Path) -> ModuleType:
    """`async_utils` of a tree on its own; it asks for nothing of vLLM's but transformers."""
    spec = importlib.util.spec_from_file_location("patched_async_utils", tree / FILES[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
