"""The entry point that vLLM calls in each of its processes."""

from __future__ import annotations

import logging

from vllm_codesign import settings
from vllm_codesign.hooks import api_server, engine_core, kv_connector, session_start, worker
from vllm_codesign.hooks.installer import Installer

logger = logging.getLogger("vllm.codesign")

TABLES = (session_start, api_server, engine_core, worker, kv_connector)

installer: Installer | None = None


def register() -> None:
    """Arrange for the hooks to be installed as vLLM's modules are imported.

    vLLM calls this unguarded, so nothing may come out of it; it may call it several times.
    """
    global installer
    if installer is not None:
        return
    try:
        chosen, _ = settings.load()
        if chosen.level == "off":
            return
        fresh = Installer(session_start.report_hooks)
        session_start.installer = fresh
        for table in TABLES:
            fresh.install(table.TABLE, table.HOOKS)
        installer = fresh
    except Exception as error:  # noqa: BLE001  # an exception here would end vLLM
        logger.warning("codesign: not active: %s: %s", type(error).__name__, error)
