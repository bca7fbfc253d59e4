"""Requests made up with a known answer: what two sides are compared by, without a server."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from vllm_codesign.analysis import figures
from vllm_codesign.analysis.samples import Samples
from vllm_codesign.analysis.sides import Server, Side

CLIENTS = {"single": 1, "conc4": 4, "conc16": 16}
_PARTS = {
    "frontend.wait": "tokenize_wait",
    "frontend.cpu": "tokenize_run",
    "device.prefill": "prefill",
    "device.decode": "decode",
    "queue.capacity": "queue",
}


def made(
    generator: np.random.Generator,
    batches: int = 10,
    wait_ms: float = 0.0,
    decode_ms: float = 0.0,
    server_ms: float = 0.0,
) -> Samples:
    """One server: every batch is off by something that its requests share, in each part.

    `wait_ms` is added to waiting for the tokenizer, `decode_ms` to decoding, `server_ms` to all
    prefills.
    """
    samples = Samples()
    for scenario, clients in CLIENTS.items():
        for batch in range(batches):
            late = generator.lognormal(0, 0.7)
            slow = generator.normal(0, 6)
            for _ in range(clients):
                parts = {
                    "frontend.wait": 10.0 * clients * generator.uniform(0.5, 1) + late + wait_ms,
                    "frontend.cpu": generator.normal(12, 1),
                    "device.prefill": 40 + slow + generator.normal(0, 3) + server_ms,
                    "device.decode": 300 + 3 * slow + generator.normal(0, 8) + decode_ms,
                    "queue.capacity": late * clients * generator.uniform(0.5, 1.5),
                }
                _add(samples, scenario, batch, parts)
    return samples


def _add(samples: Samples, scenario: str, batch: int, parts: dict[str, float]) -> None:
    total = sum(parts.values())
    first = total - parts["device.decode"]
    found = {
        figures.CLIENT_TOTAL.key: total + 2,
        figures.TTFT.key: first + 2,
        "client.http_overhead": parts["frontend.wait"] + parts["frontend.cpu"] + 2,
        "client.decode": parts["device.decode"],
        figures.SERVER_TOTAL.key: total,
        figures.EXPOSED.key: parts["frontend.wait"] + parts["frontend.cpu"],
        **{f"part.{name}": value for name, value in parts.items()},
        **{f"phase.{phase}": parts[part] for part, phase in _PARTS.items()},
    }
    by_key = samples.values.setdefault(scenario, {})
    for key, value in found.items():
        by_key.setdefault(key, {}).setdefault(batch, array("d")).append(value)


def side(name: str, *servers: Samples) -> Side:
    """Servers that have nothing but these figures."""
    return Side(
        name,
        tuple(
            Server(Path(f"{name}/{number}"), None, None, each)
            for number, each in enumerate(servers, start=1)
        ),
    )
