"""What the ASGI layer learns of a request: its caller's context and its parameters."""

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hooks.asgi import Client, Receive, Send, application, one, respond, scope_of, simple
from vllm_codesign.hooks import http
from vllm_codesign.hooks.frontend_state import CURRENT
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.hooks.root import Root
from vllm_codesign.hooks.wrap import entered
from vllm_codesign.recorder.layout import Ending, Field, Kind

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


async def test_the_clients_context_is_taken(recording: Any) -> None:
    client = Client(b"")
    headers = {
        "traceparent": TRACEPARENT,
        "tracestate": "vendor=1",
        "x-session-id": "sitzung-ü",
    }
    await application(simple)(scope_of(headers=headers), client.receive, client.send)
    records = recording.take()
    parent = one(records, Kind.ROOT_PARENT)
    assert (parent.t0 & (2**64 - 1)) == int(TRACE[:16], 16)
    assert (parent.t1 & (2**64 - 1)) == int(TRACE[16:], 16)
    assert (parent.b & (2**64 - 1)) == int(PARENT, 16)
    assert (parent.c, parent.s) == (1, 1)
    assert parent.a not in (0, parent.b)
    texts = {r.s: r.payload.rstrip(b"\0").decode() for r in records if r.kind == Kind.TEXT}
    assert texts == {Field.SESSION_ID: "sitzung-ü", Field.TRACE_STATE: "vendor=1"}


@pytest.mark.parametrize(
    ("header", "adopted", "flags"),
    [
        (TRACEPARENT, True, 1),
        (f"  {TRACEPARENT} ", True, 1),
        (f"00-{TRACE}-{PARENT}-00", True, 0),
        (f"00-{TRACE}-{PARENT}-ff", True, 255),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", True, 1),
        (f"cc-{TRACE}-{PARENT}-01", True, 1),
        (f"00-{TRACE}-{PARENT}-01-more", False, 1),
        (f"cc-{TRACE}-{PARENT}-01.more", False, 1),
        (f"ff-{TRACE}-{PARENT}-01", False, 1),
        (f"00-{'0' * 32}-{PARENT}-01", False, 1),
        (f"00-{TRACE}-{'0' * 16}-01", False, 1),
        (TRACEPARENT.upper(), False, 1),
        (f"00-{TRACE[:-1]}-{PARENT}-01", False, 1),
        (f"00-{TRACE[:-1]}x-{PARENT}-01", False, 1),
        (f"00-{'+' + TRACE[1:]}-{PARENT}-01", False, 1),
        (f"00-{TRACE[:8]}_{TRACE[9:]}-{PARENT}-01", False, 1),
        (f"00-{TRACE}-{PARENT}", False, 1),
        ("", False, 1),
        ("\xff\xfe", False, 1),
    ],
)
async def test_traceparent(recording: Any, header: str, adopted: bool, flags: int) -> None:
    client = Client(b"")
    await application(simple)(
        scope_of(headers={"traceparent": header}), client.receive, client.send
    )
    parent = one(recording.take(), Kind.ROOT_PARENT)
    assert parent.s == adopted
    assert parent.c == flags
    trace = (parent.t0 & (2**64 - 1)) << 64 | (parent.t1 & (2**64 - 1))
    assert (trace == int(TRACE, 16)) == adopted
    assert trace != 0
    assert (parent.b != 0) == adopted


def test_traceparent_handed_on() -> None:
    root = Root()
    root.adopt(TRACEPARENT.replace("-01", "-03").encode())
    assert root.traceparent() == f"00-{TRACE}-{root.span_id:016x}-01"


def double(bits: int) -> float:
    value: float = struct.unpack("<d", struct.pack("<q", bits))[0]
    return value


@pytest.mark.parametrize(
    ("body", "limit", "n", "stream", "model"),
    [
        (SimpleNamespace(model="m", max_tokens=16, n=2, stream=True), 16, 2, 1, b"m"),
        (SimpleNamespace(model="m", max_completion_tokens=7, max_tokens=9), 7, 1, 0, b"m"),
        (SimpleNamespace(model="m", max_output_tokens=5, stream=False), 5, 1, 0, b"m"),
        (SimpleNamespace(model="m", max_tokens=None, n=None), -1, 1, 0, b"m"),
        (SimpleNamespace(model=None), -1, 1, 0, None),
    ],
)
async def test_parameters(
    recording: Any, body: Any, limit: int, n: int, stream: int, model: bytes | None
) -> None:
    body.temperature = 0.7

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        http._on_endpoint(777, {"raw_request": object(), "request": body})
        http._on_endpoint(888, {"request": body})  # a nested endpoint says nothing new
        await respond(receive, send, b"x")

    client = Client(b"{}")
    await application(app)(scope_of(), client.receive, client.send)
    records = recording.take()
    params = one(records, Kind.ROOT_PARAMS)
    assert (params.t0, params.t1, params.s) == (limit, n, stream)
    assert double(params.a) == 0.7
    assert params.b == -1
    texts = [r.payload.rstrip(b"\0") for r in records if r.kind == Kind.TEXT]
    assert texts == ([model] if model else [])
    assert one(records, Kind.ROOT_RECEIVED).t1 == 777


def test_the_body_is_found_by_any_name(recording: Any) -> None:
    root = Root()
    token = CURRENT.set(root)
    http._on_endpoint(5, {"x": object(), "payload": SimpleNamespace(model="m", n=3)})
    http._on_endpoint(6, {})
    CURRENT.reset(token)
    http._on_endpoint(7, {})
    root.tell()
    assert one(recording.take(), Kind.ROOT_PARAMS).t1 == 3


def test_numbers_that_no_record_holds_are_left_out(recording: Any) -> None:
    root = Root()
    token = CURRENT.set(root)
    http._on_endpoint(5, {"x": SimpleNamespace(model="m", n=1 << 64, max_tokens=10**30)})
    CURRENT.reset(token)
    root.tell()
    params = one(recording.take(), Kind.ROOT_PARAMS)
    assert (params.t0, params.t1) == (-1, 1)


@pytest.fixture
def fastapi_app(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A real FastAPI application with our hooks in, both sound and unsound routes."""
    fastapi = pytest.importorskip("fastapi", reason="comes with vLLM")
    routing = pytest.importorskip("fastapi.routing")
    from pydantic import BaseModel

    class Body(BaseModel):
        model: str
        max_tokens: int = 16
        stream: bool = False

    class App(fastapi.FastAPI):  # type: ignore[misc, name-defined]
        pass

    App.__call__ = http.make_application(fastapi.FastAPI.__call__, ())
    run = routing.run_endpoint_function
    getters = getters_for(run, ("values",))
    monkeypatch.setattr(routing, "run_endpoint_function", entered(http._on_endpoint)(run, getters))
    app = App()

    @app.post("/v1/completions")
    async def completions(request: Body) -> Any:
        async def stream() -> Any:
            yield b"one"
            yield b"two"

        return fastapi.responses.StreamingResponse(stream()) if request.stream else {"ok": 1}

    return app


async def call(app: Any, body: bytes) -> Client:
    client = Client(body)
    client.patient = True
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    scope = scope_of(headers=headers, query_string=b"", http_version="1.1", asgi={"version": "3.0"})
    scope |= {"scheme": "http", "server": ("h", 80), "client": ("c", 1), "raw_path": b""}
    await app(scope, client.receive, client.send)
    return client


async def test_fastapi_streams(recording: Any, fastapi_app: Any) -> None:
    body = b'{"model": "m", "max_tokens": 5, "stream": true}'
    client = await call(fastapi_app, body)
    assert b"".join(m.get("body", b"") for m in client.sent) == b"onetwo"
    records = recording.take()
    begin, received = one(records, Kind.ROOT_BEGIN), one(records, Kind.ROOT_RECEIVED)
    assert (begin.a, received.a) == (len(body), len(body))
    assert begin.t1 <= received.t0 <= received.t1
    params = one(records, Kind.ROOT_PARAMS)
    assert (params.t0, params.s) == (5, 1)
    end, stream = one(records, Kind.ROOT_END), one(records, Kind.ROOT_STREAM)
    assert (end.a, end.s & Ending.COMPLETE) == (200, Ending.COMPLETE)
    assert received.t1 <= stream.t0 <= end.t1 <= stream.t1 == end.t0
    assert stream.b == 6


@pytest.mark.parametrize("body", [b'{"max_tokens": "many"}', b"{", b""])
async def test_fastapi_refuses(recording: Any, fastapi_app: Any, body: bytes) -> None:
    await call(fastapi_app, body)
    records = recording.take()
    received, end = one(records, Kind.ROOT_RECEIVED), one(records, Kind.ROOT_END)
    assert (end.a, end.s) == (422, Ending.COMPLETE)
    assert received.t1 == 0, "the route's function was never entered"
    assert Kind.ROOT_PARAMS not in {r.kind for r in records}


async def test_every_eighth_chunk_of_a_stream_is_timed_and_stands_for_the_rest(
    recording: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000
    monkeypatch.setattr(http, "clock", lambda: now)
    passed_on: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(18):
            awaitable: Any = send(
                {"type": "http.response.body", "body": b"12345", "more_body": True}
            )
            passed_on.append(getattr(awaitable, "__name__", ""))
            await awaitable
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def slow(message: Any) -> None:
        nonlocal now
        # The chunks that are timed are the second, the tenth and the eighteenth.
        now += {2: 10, 10: 20, 18: 30}.get(len(passed_on), 100)

    client = Client(b"{}")
    await application(app)(scope_of(), client.receive, slow)
    records = recording.take()
    stream = one(records, Kind.ROOT_STREAM)
    assert (stream.b, stream.c) == (18 * 5, 19)
    # Headers, first chunk and last message as they are, 17 chunks of 20 ns on average.
    assert stream.a == (100 + 100 + 30) + 17 * 20
    assert stream.t1 == one(records, Kind.ROOT_END).t0 == now
    assert passed_on.count("codesign_timed_send") == 1 + 3
    assert passed_on.count("slow") == 14, "nothing of ours around those"
