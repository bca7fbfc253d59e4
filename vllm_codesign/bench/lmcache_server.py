"""An LMCache server beside vLLM, and how vLLM is told of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from vllm_codesign.bench.server import Server, free_port, say
from vllm_codesign.model.errors import CodesignError

CHUNK_TOKENS = 256
"""As in the MI300X study, and LMCache's default."""

ENVIRONMENT = {"PYTHONHASHSEED": "0", "LMCACHE_TRACK_USAGE": "false"}
"""Both sides need the same hashes; where there is no internet nothing is reported."""


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
        python: str | Path = sys.executable,
        timeout_s: float = 120.0,
        progress: Callable[[str], None] = say,
    ) -> None:
        if find_spec("lmcache") is None and str(python) == sys.executable:
            raise CodesignError(
                "LMCache is not installed here: install vllm-codesign[lmcache], or leave the "
                "arm lmcache out"
            )
        self.kv_port = free_port()
        http_port = free_port()
        super().__init__(
            (
                *(str(Path(python).with_name("lmcache")), "server"),
                *("--port", str(self.kv_port), "--http-port", str(http_port)),
                *("--l1-size-gb", f"{gib:g}", "--eviction-policy", "LRU"),
                *("--chunk-size", str(CHUNK_TOKENS), "--disable-metrics"),
                *(("--supported-transfer-mode", "engine_driven") if engine_driven else ()),
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
