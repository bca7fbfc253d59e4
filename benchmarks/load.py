"""Load in a process of its own: 16 clients in a closed loop, streamed chat completions.

The parent writes one JSON line per slot to its stdin and reads one JSON line back:

    -> {"url": ..., "model": ..., "tokens": 32, "requests": 96, "tag": "..."}
    <- {"wall_s": ..., "failed": 0, "itl_ms": ..., "ttft_ms": ..., "tokens": ..., "stall_ms": ...}

Connections stay open between slots. Prompts are about 100 words and never repeat within a
server's life as long as the tags differ, so the prefix cache stays out of it.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

CLIENTS = 16
WORDS = 100
SLOT_TIMEOUT_S = 120.0
_KEEPALIVE_S = 4.0  # below the 5 s after which vLLM's uvicorn closes an idle connection
_VOCABULARY = (  # noqa: SIM905
    "time person year way day thing man world life hand part child eye woman place work week "
    "case point company number group problem fact block token cache queue model step state"
).split()


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One slot as the clients saw it; times are medians over its requests.

    The inter-token time of a request is first to last token over their number less one:
    single gaps are of two kinds, since tokens that wait in a buffer arrive together.
    `stall_ms` is the longest time in which no client got any token.
    """

    wall_s: float
    failed: int
    itl_ms: float
    ttft_ms: float
    tokens: int
    stall_ms: float = 0.0


def prompt(tag: str, index: int) -> str:
    source = random.Random(f"{tag}/{index}")
    return f"{tag} {index} " + " ".join(source.choices(_VOCABULARY, k=WORDS))


class LoadProcess:
    """The generator as a context manager."""

    def __init__(self, model: str, tokens: int) -> None:
        self._fixed = {"model": model, "tokens": tokens}

    def __enter__(self) -> LoadProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, url: str, requests: int, tag: str) -> LoadResult:
        """Send `requests` and wait for all answers; RuntimeError where one failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {**self._fixed, "url": url, "requests": requests, "tag": tag}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended")
        result = LoadResult(**json.loads(line))
        if result.failed:
            raise RuntimeError(f"{result.failed} of {requests} requests failed in slot {tag}")
        return result


async def _one(session: aiohttp.ClientSession, order: dict[str, Any], index: int) -> list[int]:
    """Send one request; returns when it was sent and when each token came."""
    body = {
        "model": order["model"],
        "messages": [{"role": "user", "content": prompt(order["tag"], index)}],
        "max_tokens": order["tokens"],
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
    }
    stamps = [time.monotonic_ns()]
    async with session.post(order["url"] + "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                stamps.append(time.monotonic_ns())
    return stamps


async def _slot(session: aiohttp.ClientSession, order: dict[str, Any]) -> LoadResult:
    waiting = iter(range(order["requests"]))
    done: list[list[int]] = []
    failed = 0

    async def client() -> None:
        nonlocal failed
        for index in waiting:
            try:
                done.append(await _one(session, order, index))
            except (aiohttp.ClientError, TimeoutError) as error:
                failed += 1
                print(f"request {index}: {error!r}", file=sys.stderr)

    begun = time.monotonic_ns()
    async with asyncio.timeout(SLOT_TIMEOUT_S):
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    wall_s = (time.monotonic_ns() - begun) / 1e9
    gaps = [(stamps[-1] - stamps[1]) / (len(stamps) - 2) for stamps in done if len(stamps) > 2]
    arrivals = sorted(stamp for stamps in done for stamp in stamps[1:])
    stalls = [later - earlier for earlier, later in pairwise([begun, *arrivals])]
    firsts = [stamps[1] - stamps[0] for stamps in done if len(stamps) > 1]
    return LoadResult(
        wall_s,
        failed,
        statistics.median(gaps) / 1e6 if gaps else 0.0,
        statistics.median(firsts) / 1e6 if firsts else 0.0,
        sum(len(stamps) - 1 for stamps in done),
        max(stalls, default=0) / 1e6,
    )


async def serve_orders() -> None:
    """Carry out orders from stdin until it is closed."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)
    async with aiohttp.ClientSession(connector=connector) as session:
        while line := await asyncio.to_thread(sys.stdin.readline):
            result = await _slot(session, json.loads(line))
            print(
                json.dumps({name: getattr(result, name) for name in result.__slots__}), flush=True
            )


if __name__ == "__main__":
    asyncio.run(serve_orders())
