"""The table of the API server: HTTP, renderer, engine client."""

from __future__ import annotations

from vllm_codesign.hooks import engine_client, http, renderer
from vllm_codesign.hooks.table import Hook

TABLE = "api_server"
HOOKS: tuple[Hook, ...] = http.HOOKS + renderer.HOOKS + engine_client.HOOKS
