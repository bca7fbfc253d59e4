"""A server that speaks vLLM's protocol, as slowly and as badly as a test asks for."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

TEMPLATE_TOKENS = 5


def tokens_in(text: str) -> int:
    """Like a byte-level BPE: per word, and independent of its neighbours."""
    return sum(1 + len(word) // 4 for word in text.split())


@dataclass
class Seen:
    """A generating request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float

    @property
    def prompt(self) -> str:
        if "messages" in self.body:
            return str(self.body["messages"][0]["content"])
        return str(self.body["prompt"])


@dataclass
class FakeServer:
    """`fault` is the kind of failure; delays are in seconds; `key` is asked for below `/v1`."""

    url: str = ""
    headers_s: float = 0.0
    first_s: float = 0.0
    gap_s: float = 0.0
    tail_s: float = 0.0
    tokens: int = 3
    fault: str = ""
    can_tokenize: bool = True
    room: int | None = 100_000
    gone: bool = False
    key: str = ""
    seen: list[Seen] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    connections: set[object] = field(default_factory=set)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26, middlewares=[self._authenticated])
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/chat/completions", self._generate)
        app.router.add_post("/v1/completions", self._generate)
        return app

    @web.middleware
    async def _authenticated(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        guarded = self.key and request.path.startswith("/v1")
        if guarded and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _request: web.Request) -> web.Response:
        if self.gone:
            return web.Response(status=503)
        return web.json_response({"data": [{"id": "fake", "max_model_len": self.room}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        if not self.can_tokenize:
            return web.Response(status=404)
        return web.json_response({"count": self._count(await request.json())})

    def _count(self, body: dict[str, Any]) -> int:
        if "messages" in body:
            return TEMPLATE_TOKENS + tokens_in(body["messages"][0]["content"])
        return tokens_in(body["prompt"])

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        at = time.perf_counter()
        body = await request.json()
        self.seen.append(Seen(request.path, dict(request.headers), body, at))
        self.connections.add(id(request.transport))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.headers_s)
            if self.fault == "refuse":
                return web.json_response({"error": {"message": "too\nlong"}}, status=400)
            if self.fault == "hang":
                await asyncio.sleep(30)
            if self.fault == "drop":
                assert request.transport is not None
                request.transport.abort()
            return await (self._stream if body["stream"] else self._whole)(request, body)
        finally:
            self.in_flight -= 1

    def _usage(self, body: dict[str, Any]) -> dict[str, int]:
        return {"prompt_tokens": self._count(body), "completion_tokens": self.tokens}

    async def _whole(self, _request: web.Request, body: dict[str, Any]) -> web.Response:
        if self.fault == "no json":
            return web.Response(text="<html>")
        if self.fault == "no choices":
            return web.json_response({"choices": []})
        return web.json_response({"choices": [{"text": "a"}], "usage": self._usage(body)})

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(event: object) -> None:
            data = event if isinstance(event, str) else json.dumps(event)
            await response.write(f"data: {data}\n\n".encode())

        chat = "messages" in body
        if chat:
            role = {"role": "assistant", "content": ""}
            await send({"choices": [{"index": 0, "delta": role}]})
        await asyncio.sleep(self.first_s)
        for number in range(self.tokens):
            if number:
                await asyncio.sleep(self.gap_s)
            # The second token is half a character: an event without text.
            text = "" if number == 1 else "x"
            await send({"choices": [{"delta": {"content": text}} if chat else {"text": text}]})
            if self.fault == "no json":
                await send("{half")
            if self.fault == "odd":
                await send({"choices": [7]})
            if self.fault == "engine":
                await send({"error": {"message": "EngineDeadError"}})
            if self.fault == "cut":
                assert request.transport is not None
                request.transport.abort()
        await asyncio.sleep(self.tail_s)
        await send({"choices": [], "usage": self._usage(body)})
        if self.fault != "no done":
            await send("[DONE]")
        await response.write_eof()
        return response
