"""An LMCache server beside vLLM, and how vLLM is told of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from vllm_codesign.bench.server import Server, free_port, say
from vllm_codesign.model.errors import CodesignError

CHUNK_TOKENS = 256
"""As in the MI300X study, and LMCache's default."""

ENVIRONMENT = {"PYTHONHASHSEED": "0", "LMCACHE_TRACK_USAGE": "false"}
"""Both sides need the same hashes; where there is no internet nothing is reported."""


def check_installed(python: str | Path = sys.executable) -> None:
    """Raise CodesignError unless `python`'s environment has LMCache and its command."""
    _check_module(python)
    if not os.access(command := _command(python), os.X_OK):
        raise _not_installed(f"there is no command {command}")


def _check_module(python: str | Path) -> None:
    if str(python) == sys.executable and find_spec("lmcache") is None:
        raise _not_installed(f"{python} cannot import it")


def _not_installed(why: str) -> CodesignError:
    return CodesignError(
        "LMCache is not installed here: install vllm-codesign[lmcache], or leave the arm "
        f"lmcache out ({why})"
    )


def _command(python: str | Path) -> Path:
    beside = Path(python).with_name("lmcache")
    if not beside.exists() and str(python) == sys.executable and (found := which("lmcache")):
        return Path(found)  # a system's Python keeps its own commands elsewhere than pip's
    return beside


class LMCacheServer(Server):
    """`lmcache server` on free loopback ports, with `gib` of host memory.

    `engine_driven`: the engine's workers copy the blocks, which is the only way without a GPU.
    """

    name = "LMCache"
    health = "/healthcheck"

    def __init__(
        self,
        gib: float,
        *,
        engine_driven: bool,
        log_path: Path,
        flags: Sequence[str] = (),
        python: str | Path = sys.executable,
        timeout_s: float = 120.0,
        progress: Callable[[str], None] = say,
    ) -> None:
        _check_module(python)
        self.kv_port = free_port()
        http_port = free_port()
        super().__init__(
            (
                *(str(_command(python)), "server"),
                *("--port", str(self.kv_port), "--http-port", str(http_port)),
                *("--l1-size-gb", f"{gib:g}", "--eviction-policy", "LRU"),
                *("--chunk-size", str(CHUNK_TOKENS), "--disable-metrics"),
                *(("--supported-transfer-mode", "engine_driven") if engine_driven else ()),
                *flags,
            ),
            http_port,
            env=ENVIRONMENT,
            log_path=log_path,
            timeout_s=timeout_s,
            progress=progress,
        )

    @property
    def vllm_flags(self) -> tuple[str, str]:
        """What connects `vllm serve` to this server."""
        config = {
            "kv_connector": "LMCacheMPConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"lmcache.mp.port": self.kv_port},
        }
        return "--kv-transfer-config", json.dumps(config)
