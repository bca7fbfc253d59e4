"""The HTTP side: from the first byte in to the last byte out.

Our ASGI layer is the outermost: it wraps the application class itself, so no middleware of
vLLM or of the user runs before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from vllm_codesign.hooks import loop_lag
from vllm_codesign.hooks.frontend_state import CURRENT, ROOTS, UNTRACED, current
from vllm_codesign.hooks.root import Root, int64
from vllm_codesign.hooks.table import Getter, Hook, Wrapper
from vllm_codesign.hooks.wrap import entered, swallow
from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import LEVEL, clock
from vllm_codesign.recorder.layout import ROUTES, Ending, Field, Kind

Message = MutableMapping[str, Any]

_FIRST_BYTE = "codesign.first_byte_ns"
_ROUTE_NUMBERS = {path: number for number, (path, _) in enumerate(ROUTES)}
_NO_FIELDS: Mapping[str, Any] = {}


def make_first_byte(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """uvicorn's parser has seen the first byte of a request: note it in the scope.

    httptools looks the callback up when a connection is made.
    """

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not LEVEL.byte[0]:
            return original(*args, **kwargs)
        now = clock()
        result = original(*args, **kwargs)
        try:
            args[0].scope[_FIRST_BYTE] = now
        except Exception:  # noqa: BLE001
            swallow()
        return result

    return wrapper


def make_application(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """FastAPI's `__call__`: one root per request to a route that generates."""

    @functools.wraps(original)
    async def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] != "http":
            return await original(self, scope, receive, send)
        if not LEVEL.byte[0]:
            # Should the level rise before its engine request is made, it is still not traced.
            token = CURRENT.set(UNTRACED)
            try:
                return await original(self, scope, receive, send)
            finally:
                CURRENT.reset(token)
        try:
            loop_lag.keep_ticking()
            root = _begin(scope)
        except Exception:  # noqa: BLE001
            swallow()
            root = None
        if root is None:
            return await original(self, scope, receive, send)
        token = CURRENT.set(root)
        raised = 0
        try:
            await original(self, scope, _receiving(root, receive), _sending(root, send))
        except BaseException as error:
            raised = Ending.RAISED
            _quietly(active.emit_string, root.key, Field.ERROR_TYPE, type(error).__qualname__)
            raise
        finally:
            _quietly(_end, root, raised)
            CURRENT.reset(token)

    return wrapper


def _quietly(function: Callable[..., None], *args: Any) -> None:
    try:
        function(*args)
    except Exception:  # noqa: BLE001
        swallow()


def _begin(scope: MutableMapping[str, Any]) -> Root | None:
    """A new root, or None where this request is not one to trace."""
    if scope["method"] != "POST":
        return None
    path = scope["path"]
    route = _ROUTE_NUMBERS.get(path)
    if route is None:
        # Behind a proxy prefix (--root-path) the path still ends in the route.
        prefix = scope.get("root_path", "")
        route = _ROUTE_NUMBERS.get(path[len(prefix) :]) if prefix else None
        if route is None:
            return None
    if current() is not None:
        return None  # an application mounted in another: the outer one has it
    now = clock()
    root = Root()
    # Where a name comes twice, against the specification, the last one counts.
    headers = dict(scope["headers"])
    if (traceparent := headers.get(b"traceparent")) is not None:
        root.adopt(traceparent)
    length = headers.get(b"content-length", b"")
    announced = int64(int(length), 0) if length.isdigit() else 0
    if not root.has_parent:
        root.make_trace_id()
    emit, key = active.emit, root.key
    emit(
        Kind.ROOT_BEGIN,
        key,
        scope.get(_FIRST_BYTE, now),
        now,
        announced,
        0,
        LEVEL.byte[0],
        route,
    )
    emit(
        Kind.ROOT_PARENT,
        key,
        _signed(root.trace_id >> 64),
        _signed(root.trace_id & 0xFFFFFFFFFFFFFFFF),
        _signed(root.span_id),
        _signed(root.parent_id),
        root.flags,
        root.has_parent,
    )
    if session_id := headers.get(b"x-session-id"):
        active.emit_string(key, Field.SESSION_ID, session_id.decode("latin-1"))
    if root.has_parent and (trace_state := headers.get(b"tracestate")):
        active.emit_string(key, Field.TRACE_STATE, trace_state.decode("latin-1"))
    ROOTS.add(root)
    return root


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _receiving(root: Root, receive: Callable[..., Any]) -> Callable[..., Any]:
    async def codesign_receive() -> Message:
        message: Message = await receive()
        try:
            kind = message["type"]
            if kind == "http.request":
                root.last_in = clock()
                root.body_bytes += len(message.get("body", b""))
            elif kind == "http.disconnect" and not root.complete and not root.disconnected_at:
                root.disconnected_at = clock()
        except Exception:  # noqa: BLE001
            swallow()
        return message

    return codesign_receive


_UNTIMED = 7
"""Chunks of a stream between two that are timed: a coroutine of ours around each would be what
recording costs most."""


def _sending(root: Root, send: Callable[..., Any]) -> Callable[..., Any]:
    async def codesign_timed_send(message: Message) -> None:
        start = clock()
        await send(message)
        try:
            if root.first_body_at and message.get("more_body"):
                root.last_out = end = clock()
                root.timed_ns += end - start
                root.timed_chunks += 1
                root.chunks += 1
                root.bytes_out += len(message["body"])
                root.untimed = _UNTIMED
            else:
                _sent(root, message, start, clock())
        except Exception:  # noqa: BLE001
            swallow()

    def codesign_send(message: Message) -> Any:
        timed = True
        try:
            # In mid-stream, which is every token, there are only sums to keep.
            if root.untimed and message.get("more_body"):
                timed = False
                root.untimed -= 1
                root.chunks += 1
                root.bytes_out += len(message["body"])
                root.last_out = clock()
        except Exception:  # noqa: BLE001
            swallow()
        return codesign_timed_send(message) if timed else send(message)

    return codesign_send


def _sent(root: Root, message: Message, start: int, end: int) -> None:
    if message["type"] == "http.response.body":
        took = end - start
        body = message.get("body", b"")
        if root.first_body_at == 0 and body:
            root.first_body_at, root.first_send_ns = end, took
        root.send_ns += took
        root.bytes_out += len(body)
        root.calls += 1
        root.last_out = end
        if not message.get("more_body", False) and not root.disconnected_at:
            root.complete = True
    elif message["type"] == "http.response.start":
        root.headers_at, root.status = start, message["status"]
        root.send_ns += end - start
        root.last_out = end


def _end(root: Root, raised: int) -> None:
    ROOTS.discard(root)
    # What was not completed ends when the server is done with it.
    root.tell_end(root.last_out if root.complete else clock(), raised)


def _on_endpoint(t0: int, values: dict[str, Any]) -> None:
    """The body is parsed and validated, the route's function is about to run."""
    root = current()
    if root is None or root.entered_at:
        return
    root.entered_at = t0
    root.body = next((f for v in values.values() if "model" in (f := _fields(v))), None)


def _fields(value: Any) -> Mapping[str, Any]:
    """The fields of a pydantic model as they stand; none of anything else."""
    return getattr(value, "__dict__", _NO_FIELDS)


HOOKS: tuple[Hook, ...] = (
    Hook(
        "http.first_byte",
        ("uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.on_message_begin",),
        make_first_byte,
        foreign=True,
        required=False,  # without it the root starts when the application is entered
    ),
    Hook(
        "http.application",
        ("fastapi.applications:FastAPI.__call__",),
        make_application,
        ("scope", "receive", "send"),
        foreign=True,
    ),
    Hook(
        "http.endpoint",
        ("fastapi.routing:run_endpoint_function",),
        entered(_on_endpoint, while_open=ROOTS),
        ("values",),
        foreign=True,
    ),
)
