"""A real vLLM under a mixed load, watched by a real Prometheus: for the dashboards' panels."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.mixed_load import Sent, make_requests, send_all
from tests.support.prometheus import Prometheus, prometheus, wait_for_scrapes
from tests.support.serving import Serving, serve, wait_until_closed
from vllm_codesign.bench.server import free_port

ARM = "small-cache"
MODEL = "tiny"
"""The name that it is served under."""
MAX_LEN = 4096
FLAGS = (
    *("--served-model-name", MODEL, "--max-model-len", str(MAX_LEN), "--block-size", "64"),
    *("--num-gpu-blocks-override", "72", "--max-num-seqs", "8"),
    *("--max-num-batched-tokens", "512"),
)
"""72 blocks of 64 tokens: requests wait for blocks, lose theirs, and compute prompts again."""
SETTLE_S = 14.0
"""The device's time is told some six seconds late, a request two."""

NO_GPU = "no GPU in this run"
NO_CONNECTOR = "no KV connector in this run"
NO_DATA = {
    "GPU utilization": NO_GPU,
    "GPU memory": NO_GPU,
    "GPU power": NO_GPU,
    "GPU temperature": NO_GPU,
    "Bytes moved, by tier": NO_CONNECTOR,
    "Tokens moved, by tier": NO_CONNECTOR,
    "Transfers: time": NO_CONNECTOR,
}
"""Panels that have nothing to show, and why."""
NO_DATA_QUERIES = {"overview / vLLM: prefix cache hit rate / connector": NO_CONNECTOR}


@dataclass(frozen=True)
class Observed:
    """Both servers, as long as the block lasts."""

    serving: Serving
    prometheus: Prometheus


@contextmanager
def observed(folder: Path, interval: str = "500ms") -> Iterator[Observed]:
    """Scraped every `interval`, at least once when the block begins."""
    port = free_port()
    environment = {
        "CODESIGN_METRICS_PORT": str(port),
        "OTEL_RESOURCE_ATTRIBUTES": f"codesign.arm={ARM}",
        "VLLM_ENABLE_RESPONSES_API_STORE": "1",
    }
    with serve(folder, FLAGS, environment) as serving:
        targets = {
            "codesign": f"127.0.0.1:{port}",
            "vllm": serving.url.removeprefix("http://"),
        }
        (folder / "prometheus").mkdir()
        with prometheus(folder / "prometheus", targets, interval) as server:
            wait_for_scrapes(server)
            yield Observed(serving, server)


def load(count: int, seed: int) -> list[Sent]:
    """All kinds, and half of them again when their blocks are likely to be gone."""
    rng = random.Random(seed)
    first = make_requests(MODEL, count, seed, max_len=MAX_LEN)
    again = [
        replace(
            sent,
            trace_id=f"{rng.getrandbits(128) | 1:032x}",
            parent_id=f"{rng.getrandbits(64) | 1:016x}",
        )
        for sent in first[: count // 2]
    ]
    return [*first, *again]


def send(serving: Serving, requests: Sequence[Sent]) -> None:
    """Returns when all of them are stored and their metrics are told."""
    asyncio.run(send_all(serving.url, list(requests), clients=12))
    serving.traces([request.trace_id for request in requests])
    wait_until_closed(serving.session)
    time.sleep(SETTLE_S)
