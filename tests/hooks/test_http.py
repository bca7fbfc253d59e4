"""The ASGI layer: one root per request to a route that generates, and how it ended."""

import asyncio
from typing import Any

import pytest

from tests.hooks.asgi import (
    Client,
    Clock,
    Receive,
    Send,
    application,
    one,
    respond,
    scope_of,
    simple,
)
from vllm_codesign.hooks import http
from vllm_codesign.hooks.frontend_state import CURRENT, UNTRACED, current
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.recorder.layout import Ending, Kind
from vllm_codesign.recorder.reader import Record


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, recording: Any) -> Clock:
    made = Clock()
    monkeypatch.setattr(http, "clock", made)
    return made


async def test_a_streamed_response(recording: Any) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await respond(receive, send, b"one", b"two2")

    client = Client(b"body", b"rest!")
    scope = scope_of(
        headers={"content-length": "9"}, **{"codesign.first_byte_ns": 3, "root_path": ""}
    )
    await application(app)(scope, client.receive, client.send)
    records = recording.take()
    key = records[0].key
    assert {r.key for r in records} == {key}
    # The clock: entered 10, body at 20 and 30, then two looks around each of four sends.
    assert records == [
        Record(0, Kind.ROOT_BEGIN, 1, 1, key, 3, 10, 9, 0),
        records[1],
        Record(2, Kind.ROOT_RECEIVED, 0, 0, key, 30, 0, 9, 0),
        Record(3, Kind.ROOT_STREAM, 0, 4 - 1, key, 40, 110, 40, 7),
        Record(4, Kind.ROOT_END, Ending.COMPLETE, 0, key, 110, 70, 200, 10),
    ]
    assert [m.get("body") for m in client.sent] == [None, b"one", b"two2", b""]
    assert CURRENT.get() is None


async def test_a_client_that_leaves(recording: Any) -> None:
    """Starlette cancels the response and returns: nothing raised, nothing completed."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    client = Client(b"{}")
    await application(app)(scope_of(), client.receive, client.send)
    end = one(recording.take(), Kind.ROOT_END)
    assert (end.s, end.a) == (Ending.DISCONNECTED, 200)


async def test_leaving_after_the_last_byte_is_no_disconnect(recording: Any) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await respond(receive, send, b"x")
        assert (await receive())["type"] == "http.disconnect"

    client = Client(b"{}")
    await application(app)(scope_of(), client.receive, client.send)
    assert one(recording.take(), Kind.ROOT_END).s == Ending.COMPLETE


@pytest.mark.parametrize("error", [ValueError("theirs"), asyncio.CancelledError()])
async def test_an_application_that_raises(recording: Any, error: BaseException) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise error

    client = Client(b"{}")
    with pytest.raises(type(error)) as caught:
        await application(app)(scope_of(), client.receive, client.send)
    assert caught.value is error
    records = recording.take()
    end = one(records, Kind.ROOT_END)
    assert (end.s, end.a) == (Ending.RAISED, 0)
    name = type(error).__qualname__.encode()
    assert one(records, Kind.TEXT).payload.rstrip(b"\0") == name
    assert CURRENT.get() is None


async def test_a_send_that_raises_is_the_servers_own(recording: Any) -> None:
    client = Client(b"{}")

    async def gone(message: dict[str, Any]) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await application(simple)(scope_of(), client.receive, gone)
    assert one(recording.take(), Kind.ROOT_END).s == Ending.RAISED


async def test_an_application_in_an_application_is_one_request(recording: Any) -> None:
    inner = application(simple)

    async def outer(scope: Any, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    client = Client(b"{}")
    await application(outer)(scope_of(), client.receive, client.send)
    assert recording.kinds().count(Kind.ROOT_BEGIN) == 1


@pytest.mark.parametrize(
    "scope",
    [
        scope_of("/health"),
        scope_of("/v1/completions/"),
        scope_of("/v1/models"),
        {**scope_of(), "method": "GET"},
        {**scope_of(), "type": "websocket"},
        {"type": "lifespan"},
        scope_of("/prefix/v1/completions"),
        scope_of("/prefix/v1/completions", root_path="/other"),
    ],
)
async def test_what_does_not_generate_is_none_of_ours(
    recording: Any, scope: dict[str, Any]
) -> None:
    client = Client(b"{}")
    await application(simple)(scope, client.receive, client.send)
    assert recording.take() == []
    assert len(client.sent) == 3


async def test_behind_a_prefix(recording: Any) -> None:
    client = Client(b"{}")
    scope = scope_of("/prefix/v1/chat/completions", root_path="/prefix")
    await application(simple)(scope, client.receive, client.send)
    assert one(recording.take(), Kind.ROOT_BEGIN).s == 0


async def test_dormant(recording: Any) -> None:
    recording.session.level = 0
    client = Client(b"{}")
    await application(simple)(scope_of(), client.receive, client.send)
    assert recording.take() == []


async def test_a_request_of_dormant_times_stays_untraced_when_the_level_rises(
    recording: Any,
) -> None:
    recording.session.level = 0
    seen = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        recording.session.level = 1
        seen.extend([CURRENT.get(), current()])
        await respond(receive, send, b"x")

    client = Client(b"body")
    await application(app)(scope_of(), client.receive, client.send)
    assert seen == [UNTRACED, None]
    assert CURRENT.get() is None
    assert recording.take() == []


async def test_requests_side_by_side_do_not_mix(recording: Any) -> None:
    roots = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        before = current()
        await asyncio.sleep(0)
        roots.append((before, current()))
        await respond(receive, send, b"x")

    made = application(app)
    clients = [Client(b"{}") for _ in range(5)]
    await asyncio.gather(*(made(scope_of(), c.receive, c.send) for c in clients))
    assert all(before is after is not None for before, after in roots)
    assert len({root.key for root, _ in roots if root}) == 5


@pytest.mark.usefixtures("lenient")
async def test_a_fault_of_ours_does_not_reach_the_client(
    recording: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(b"{}")
    for name in ("_begin", "_end"):
        with monkeypatch.context() as patch:
            patch.setattr(http, name, lambda *_: 1 / 0)
            await application(simple)(scope_of(), client.receive, client.send)
    assert recording.ring.errors == 2
    assert [m["type"] for m in client.sent].count("http.response.start") == 2


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize(
    "message",
    [{"type": "http.response.start", "headers": []}, {"type": "http.response.body", "body": None}],
)
async def test_odd_messages_are_the_servers_business(
    recording: Any, message: dict[str, Any]
) -> None:
    """What the server under us accepts must not fail in us."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(message)

    client = Client()
    client.incoming = [{"type": "http.request", "body": None}]
    await application(app)(scope_of(), client.receive, client.send)
    assert client.sent == [message]
    assert recording.ring.errors >= 1


def test_first_byte(recording: Any, clock: Clock) -> None:
    class Protocol:
        def on_message_begin(self) -> str:
            self.scope: dict[str, Any] = {}
            return "theirs"

    method = Protocol.on_message_begin
    Protocol.on_message_begin = http.make_first_byte(method, getters_for(method, ()))  # type: ignore[method-assign]
    protocol = Protocol()
    assert protocol.on_message_begin() == "theirs"
    assert protocol.scope == {"codesign.first_byte_ns": 10}
    recording.session.level = 0
    protocol.on_message_begin()
    assert protocol.scope == {}
