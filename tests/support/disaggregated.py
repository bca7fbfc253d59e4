"""A router between a server that computes prompts and one that decodes, and their connector."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONNECTOR = "NamingConnector"
MODULE = "naming_connector"
SOURCE = f"""
from vllm.distributed.kv_transfer.kv_connector.v1.example_connector import ExampleConnector


class {CONNECTOR}(ExampleConnector):
    def request_finished(self, request, block_ids):
        params = {{
            "do_remote_prefill": True,
            "remote_request_id": request.request_id,
            "remote_engine_id": self._vllm_config.kv_transfer_config.engine_id,
        }}
        return False, params
"""
"""ExampleConnector, which says to the other half who it was, as NIXL's connectors do."""


def config(role: str, folder: str) -> dict[str, Any]:
    """`--kv-transfer-config` of one half; `folder` is where both find the blocks."""
    return {
        "kv_connector": CONNECTOR,
        "kv_connector_module_path": MODULE,
        "kv_role": role,
        "engine_id": f"engine-{role}",
        "kv_connector_extra_config": {"shared_storage_path": folder},
    }


@dataclass(frozen=True)
class Router:
    """Sends a request's prompt to one server, and the whole of it to the other."""

    prefill: str
    decode: str

    def complete(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        """Both get the caller's headers as they are; returns the decoding server's answer."""
        first = {**body, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
        prefilled = _post(self.prefill, first, headers)
        told = prefilled["kv_transfer_params"]
        return _post(self.decode, {**body, "kv_transfer_params": told}, headers)


def _post(url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **headers},
    )
    with urllib.request.urlopen(request, timeout=100) as response:
        answer: dict[str, Any] = json.load(response)
    return answer
