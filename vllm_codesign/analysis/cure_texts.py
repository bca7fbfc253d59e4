"""The texts of a cure that depend on the server: how many, and beyond what it has."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vllm_codesign.analysis.server_settings import ServerSettings
from vllm_codesign.semconv import QueueReason

_MOST_WORKERS = 8
_NUMBER = re.compile(r"\d+(\.\d+)?")

AHEAD = "steps planned ahead (the default on GPUs: no `--no-async-scheduling`)"
NOT_AHEAD = "a GPU: vLLM's CPU backend plans each step after the one before"
"""vLLM sets the flag back on its CPU backend, whatever it was given."""
SET_BACK = "steps planned ahead (the default on GPUs: vLLM's log says what forbids it here)"
ONE_CPU = "a second core for the API server, then `--renderer-num-workers 2`"
BEYOND_POOL = (
    "more CPUs for the API server where its threads have none to spare, else more API servers "
    "(`--api-server-count`), each with a pool of its own"
)


def workers(clients: int | None, server: ServerSettings) -> int:
    """One thread for each client and no more than CPUs that the API server may use; 2 to 8."""
    bounds = [bound for bound in (clients, server.cpus) if bound]
    return max(2, min([_MOST_WORKERS, *bounds]))


def filled(
    server: ServerSettings, clients: int | None, queued: Mapping[str, float]
) -> dict[str, str]:
    """The texts that a row may name."""
    more_servers = "`--api-server-count`"
    if (server.api_servers or 1) > 1:
        more_servers += f" above {server.api_servers}"
    return {
        "workers": str(workers(clients, server)),
        "servers": more_servers,
        "interval": _beyond(server, "--stream-interval", "above"),
        "fewer_tokens": _beyond(server, "--max-num-batched-tokens", "below"),
        "fewer_requests": _beyond(server, "--max-num-seqs", "below"),
        "ahead": _ahead(server),
        "beyond_pool": _beyond_pool(server, more_servers),
        "limit": _limit(server, queued),
    }


def _beyond(server: ServerSettings, flag: str, way: str) -> str:
    value = server.flags.get(flag, "")
    return f"`{flag}` {way} {value}" if _NUMBER.fullmatch(value) else f"`{flag}`"


def _ahead(server: ServerSettings) -> str:
    if server.on_cpu:
        return NOT_AHEAD
    refused = server.plans_ahead is False and server.unset("--async-scheduling")
    return SET_BACK if refused else AHEAD


def _beyond_pool(server: ServerSettings, more_servers: str) -> str:
    if server.threads is None:
        return BEYOND_POOL
    if server.cpus is not None and server.cpus <= server.threads:
        return (
            f"more CPUs for the API server (its {server.threads} renderer threads may use "
            f"{server.cpus})"
        )
    return (
        f"more API servers ({more_servers}), each with a pool of its own "
        f"(`--renderer-num-workers` is {server.threads} already)"
    )


def _limit(server: ServerSettings, queued: Mapping[str, float]) -> str:
    """By what stopped the head of the queue: KV blocks help nobody who waits for something else."""
    heads = {r: ms for r, ms in queued.items() if r != QueueReason.BEHIND_HEAD}
    held = max(heads, key=lambda reason: heads[reason], default="")
    if held in (QueueReason.NO_FREE_BLOCKS, QueueReason.PREEMPTION):
        flags = [_beyond(server, "--gpu-memory-utilization", "above")]
        if not server.flags.get("--kv-cache-dtype", "").startswith("fp8"):
            flags.append("`--kv-cache-dtype`")
        return f", or more KV blocks on them ({', '.join(flags)})"
    if held == QueueReason.NO_SLOT:
        return f", or more requests at a time ({_beyond(server, '--max-num-seqs', 'above')})"
    if held == QueueReason.TOKEN_BUDGET:
        tokens = _beyond(server, "--max-num-batched-tokens", "above")
        return f", or more tokens a step ({tokens})"
    return ""
