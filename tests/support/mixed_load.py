"""Requests of every kind at once, each with a known trace id and a known ending."""

from __future__ import annotations

import asyncio
import json
import keyword
import random
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from vllm_codesign.semconv import Outcome


@dataclass
class Sent:
    """One request as its client saw it."""

    kind: str
    path: str
    body: dict[str, Any]
    expected: Outcome
    trace_id: str
    parent_id: str
    abort_after_s: float | None = None
    status: int | None = None
    wall_ns: int = 0
    left_at_ns: int = 0
    """Wall clock when the client hung up; 0 where it had the whole response."""
    headers_ns: int = 0
    chunks: int = 0
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def choices(self) -> int:
        """Engine requests it leads to."""
        prompts = self.body.get("prompt")
        count = len(prompts) if isinstance(prompts, list) and isinstance(prompts[0], str) else 1
        return count * int(self.body.get("n") or 1)


_WORDS = tuple(keyword.kwlist)


def text(words: int, rng: random.Random) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(words))


def make_requests(model: str, count: int, seed: int = 0, max_len: int = 8192) -> list[Sent]:
    """`count` requests in fixed proportions, shuffled."""
    rng = random.Random(seed)
    kinds = (
        [_stream] * 8 + [_whole] * 3 + [_completion] * 3 + [_choices] * 2 + [_prompts]
        + [_responses] * 2 + [_responses_stream] + [_messages] * 2 + [_messages_stream]
        + [_abort] * 3 + [_abort_whole] + [_bad] * 2 + [_unknown_model] + [_too_long]
    )  # fmt: skip
    picked = [kinds[i % len(kinds)] for i in range(count)]
    rng.shuffle(picked)
    sent = []
    for make in picked:
        kind, path, body, expected, abort = make(model, rng, max_len)
        sent.append(
            Sent(
                kind,
                path,
                body,
                expected,
                f"{rng.getrandbits(128) | 1:032x}",
                f"{rng.getrandbits(64) | 1:016x}",
                abort,
            )
        )
    return sent


Made = tuple[str, str, dict[str, Any], Outcome, float | None]


def _chat(model: str, rng: random.Random, words: int, tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": text(words, rng)}],
        "max_tokens": tokens,
        "ignore_eos": True,
        **more,
    }


def _stream(model: str, rng: random.Random, _: int) -> Made:
    body = _chat(model, rng, rng.randint(50, 600), rng.randint(8, 40), stream=True)
    return "stream", "/v1/chat/completions", body, Outcome.COMPLETED, None


def _whole(model: str, rng: random.Random, _: int) -> Made:
    body = _chat(model, rng, rng.randint(50, 600), rng.randint(8, 40))
    return "whole", "/v1/chat/completions", body, Outcome.COMPLETED, None


def _completion(model: str, rng: random.Random, _: int) -> Made:
    body = {"model": model, "prompt": text(200, rng), "max_tokens": 16, "ignore_eos": True}
    return "completion", "/v1/completions", body, Outcome.COMPLETED, None


def _choices(model: str, rng: random.Random, _: int) -> Made:
    body = _chat(model, rng, 100, 12, n=2, temperature=0.8)
    return "n=2", "/v1/chat/completions", body, Outcome.COMPLETED, None


def _prompts(model: str, rng: random.Random, _: int) -> Made:
    prompts = [text(40, rng), text(80, rng), text(20, rng)]
    body = {"model": model, "prompt": prompts, "max_tokens": 8, "ignore_eos": True}
    return "prompts", "/v1/completions", body, Outcome.COMPLETED, None


def _responses(model: str, rng: random.Random, _: int) -> Made:
    body = {"model": model, "input": text(60, rng), "max_output_tokens": 12}
    return "responses", "/v1/responses", body, Outcome.COMPLETED, None


def _responses_stream(model: str, rng: random.Random, _: int) -> Made:
    body = {"model": model, "input": text(60, rng), "max_output_tokens": 12, "stream": True}
    return "responses stream", "/v1/responses", body, Outcome.COMPLETED, None


def _messages(model: str, rng: random.Random, _: int) -> Made:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text(60, rng)}],
        "max_tokens": 12,
    }
    return "messages", "/v1/messages", body, Outcome.COMPLETED, None


def _messages_stream(model: str, rng: random.Random, max_len: int) -> Made:
    _, path, body, outcome, _ = _messages(model, rng, max_len)
    return "messages stream", path, {**body, "stream": True}, outcome, None


def _abort(model: str, rng: random.Random, _: int) -> Made:
    body = _chat(model, rng, 200, 3000, stream=True)
    return "abort", "/v1/chat/completions", body, Outcome.ABORTED, rng.uniform(0.2, 0.8)


def _abort_whole(model: str, rng: random.Random, _: int) -> Made:
    body = _chat(model, rng, 200, 3000)
    return "abort whole", "/v1/chat/completions", body, Outcome.ABORTED, rng.uniform(0.2, 0.8)


def _bad(model: str, rng: random.Random, _: int) -> Made:
    body = _chat(model, rng, 10, 8, temperature=-3.0)
    return "bad", "/v1/chat/completions", body, Outcome.REJECTED, None


def _unknown_model(model: str, rng: random.Random, _: int) -> Made:
    body = _chat("no-such-model", rng, 10, 8)
    return "unknown model", "/v1/chat/completions", body, Outcome.REJECTED, None


def _too_long(model: str, rng: random.Random, max_len: int) -> Made:
    body = _chat(model, rng, 2 * max_len, 8)
    return "too long", "/v1/chat/completions", body, Outcome.REJECTED, None


async def send_all(url: str, requests: list[Sent], clients: int = 8) -> None:
    """Send every request, `clients` at a time; each `Sent` is filled in."""
    queue = iter(requests)
    timeout = aiohttp.ClientTimeout(total=300)
    # A connection each: vLLM closes idle ones after 5 s, which a busy machine may notice
    # together with the next request, and 0.19 closes unannounced after an invalid request.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(
        url, timeout=timeout, connector=connector, trace_configs=[_tracing()]
    ) as session:

        async def client() -> None:
            for request in queue:
                await _send(session, request)

        await asyncio.gather(*(client() for _ in range(clients)))


def _tracing() -> aiohttp.TraceConfig:
    """Calls the request's `trace_request_ctx` when its body is handed to the kernel."""

    async def sent(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
        context.trace_request_ctx()

    config = aiohttp.TraceConfig()
    config.on_request_chunk_sent.append(sent)
    return config


async def _send(session: aiohttp.ClientSession, request: Sent) -> None:
    headers = {
        "traceparent": f"00-{request.trace_id}-{request.parent_id}-01",
        "X-Session-ID": f"session-{request.kind}",
        "Content-Type": "application/json",
    }
    body = json.dumps(request.body).encode()
    start = time.monotonic_ns()
    try:
        async with asyncio.timeout(None) as limit:

            def sent() -> None:
                # From here on: of a client that gives up earlier no server knows.
                if request.abort_after_s is not None:
                    limit.reschedule(asyncio.get_running_loop().time() + request.abort_after_s)

            async with session.post(
                request.path, data=body, headers=headers, trace_request_ctx=sent
            ) as response:
                request.headers_ns = time.monotonic_ns() - start
                request.status = response.status
                payload = b""
                async for chunk in response.content.iter_any():
                    request.chunks += 1
                    payload += chunk
        if not request.body.get("stream") and response.status == 200:
            request.usage = json.loads(payload).get("usage") or {}
    except TimeoutError:
        if request.abort_after_s is None:
            raise
        # The socket is closed by the loop's next round, which a busy machine may put off.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        request.left_at_ns = time.time_ns()
    request.wall_ns = time.monotonic_ns() - start
