"""A plain ASGI application and its client, without a server between them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from vllm_codesign.hooks import http
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Clock:
    """Each look is 10 later than the one before."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 10
        return self.now


def application(body: Callable[[dict[str, Any], Receive, Send], Awaitable[None]]) -> Any:
    """A wrapped application, as FastAPI's class would be."""

    class App:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await body(scope, receive, send)

    App.__call__ = http.make_application(App.__call__, ())  # type: ignore[method-assign]
    return App()


def scope_of(path: str = "/v1/completions", **more: Any) -> dict[str, Any]:
    headers = more.pop("headers", {})
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
        **more,
    }


class Client:
    """Hands over a body and takes the response; may leave."""

    def __init__(self, *chunks: bytes) -> None:
        self.incoming = [
            {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)}
            for i, chunk in enumerate(chunks)
        ]
        self.sent: list[dict[str, Any]] = []
        self.patient = False
        """Stays until the last byte, as long as it is told so."""
        self._answered = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self.incoming:
            return self.incoming.pop(0)
        if self.patient:
            await self._answered.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._answered.set()


async def respond(receive: Receive, send: Send, *chunks: bytes, status: int = 200) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": status, "headers": []})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def one(records: list[Record], kind: Kind) -> Record:
    (record,) = [r for r in records if r.kind == kind]
    return record


async def simple(scope: Any, receive: Receive, send: Send) -> None:
    await respond(receive, send, b"answer")
