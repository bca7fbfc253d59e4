"""When requests are sent: a batch at once, a closed loop, or a Poisson stream.

- `batch`: all requests of one repeat at once, as in the study; the next repeat when the
  last of them is answered. Bodies are encoded before the first is sent, so that encoding
  one does not delay another.
- `closed`: `concurrency` clients, each sending its next request when its last is answered.
- `poisson:RATE`: RATE requests a second with exponential gaps, whatever is in flight
  (`concurrency` is no limit here); the gaps are the same in every run.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import aiohttp

from vllm_codesign.bench.client import Job, Prepared, Target, prepare, send
from vllm_codesign.model.bench import RequestResult
from vllm_codesign.model.errors import CodesignError

# vLLM's uvicorn closes a connection that was idle for 5 s; reusing one at that very moment
# would fail a request for no fault of the server.
_KEEPALIVE_S = 4.0

_TICK_S = 0.01
LATE_MS = 20.0
"""A client whose event loop is later than this blurs the times it reports."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How requests arrive; `rate` in requests a second, for `poisson` only."""

    kind: Literal["batch", "closed", "poisson"]
    rate: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Arrival:
        """Read `batch`, `closed` or `poisson:RATE`; raises CodesignError."""
        kind, colon, rate_text = text.partition(":")
        if kind in ("batch", "closed") and not colon:
            return cls("batch" if kind == "batch" else "closed")
        if kind == "poisson":
            try:
                rate = float(rate_text)
            except ValueError:
                rate = math.nan
            if math.isfinite(rate) and rate > 0:
                return cls("poisson", rate)
        raise CodesignError(
            f"arrival {text!r} is not known: use batch, closed or poisson:RATE "
            "(requests a second, above 0)"
        )

    def __str__(self) -> str:
        return f"poisson:{self.rate:g}" if self.kind == "poisson" else self.kind


BATCH = Arrival("batch")


class Load:
    """Sends jobs to one server over kept-alive connections.

    Of the call that runs, or ran last: `answered` requests are done, and `late_ms` is the
    most that this process's own event loop was late.
    """

    def __init__(self, target: Target, session: aiohttp.ClientSession) -> None:
        self._target = target
        self.session = session
        self.late_ms = 0.0
        self.answered = 0

    async def run(self, jobs: Sequence[Job], arrival: Arrival) -> list[RequestResult]:
        """Send all jobs (of one scenario) and return their results in the jobs' order."""
        self.answered = 0
        if not jobs:
            return []
        await self._open_connections(min(len(jobs), jobs[0].scenario.concurrency))
        watch = asyncio.create_task(self._watch_loop())
        try:
            if arrival.kind == "batch":
                return await self._batch(jobs)
            if arrival.kind == "closed":
                return await self._closed(jobs, jobs[0].scenario.concurrency)
            return await self._poisson(jobs, arrival.rate)
        finally:
            watch.cancel()

    async def _batch(self, jobs: Iterable[Job]) -> list[RequestResult]:
        prepared = [prepare(self._target, job) for job in jobs]
        return await asyncio.gather(*(self._send(p) for p in prepared))

    async def _closed(self, jobs: Sequence[Job], clients: int) -> list[RequestResult]:
        waiting = iter(enumerate(jobs))
        results: dict[int, RequestResult] = {}

        async def client() -> None:
            for number, job in waiting:
                results[number] = await self._one(job)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        return [results[number] for number in range(len(jobs))]

    async def _poisson(self, jobs: Sequence[Job], rate: float) -> list[RequestResult]:
        gaps = random.Random(0)
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = []
            for job in jobs:
                # Against the clock, not the last send: a late one does not thin the stream.
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.append(group.create_task(self._one(job)))
                due += gaps.expovariate(rate)
        return [task.result() for task in tasks]

    async def _one(self, job: Job) -> RequestResult:
        return await self._send(prepare(self._target, job))

    async def _send(self, prepared: Prepared) -> RequestResult:
        result = await send(self.session, self._target, prepared)
        self.answered += 1
        return result

    async def _open_connections(self, count: int) -> None:
        """Connect `count` times, so that no measured request has to."""

        async def touch() -> None:
            try:
                async with self.session.get(self._target.url + "/health") as response:
                    await response.read()
            except aiohttp.ClientError:
                return  # the requests themselves will say what is wrong

        await asyncio.gather(*(touch() for _ in range(count)))

    async def _watch_loop(self) -> None:
        self.late_ms = 0.0
        while True:
            due = time.perf_counter() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self.late_ms = max(self.late_ms, (time.perf_counter() - due) * 1e3)


@asynccontextmanager
async def open_load(target: Target) -> AsyncIterator[Load]:
    """A `Load` with a session of its own, closed at the end."""
    async with aiohttp.ClientSession(
        # No limit: a client that queues inside itself would measure its own queue.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", **target.headers},
        # `send` keeps its own time limit; aiohttp's default would end a long request.
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=2**20,
    ) as session:
        yield Load(target, session)
