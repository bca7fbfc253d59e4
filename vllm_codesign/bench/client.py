"""One request, timed by the MI300X study's own definitions.

Stamps are `time.perf_counter_ns()`, each taken where the thing happens:

- *sent*: the prepared body is handed to aiohttp. On a new connection the time to connect
  counts as HTTP overhead, so the load generator opens connections beforehand.
- *headers*: aiohttp has parsed status line and headers and given control back to us.
- *first token*, *last token*: the read that brought the first and the last event with
  generated output. An event that only names the role is not a token. Where one read
  brings several events they share its stamp.
- *end*: the body has been read to its end (the usage event and `[DONE]` come after the
  last token).

`total_ms` is serialization plus *sent* to *end*; the four parts sum to it less the tail
from last token to end. Without streaming there is no first token to see: headers come with
the whole body, and `prefill_ms`, `decode_ms` and `ttft_ms` stay absent.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from vllm_codesign.model.bench import RequestResult, Scenario

_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask. `url` ends before `/v1`; `session` is a prefix for `X-Session-ID`,
    to which each client's index is added (absent: the header is not sent); `headers` go with
    every request and may be secrets."""

    url: str
    model: str
    timeout_s: float = 600.0
    session: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Job:
    """A request to be made: which one of its scenario it is, and its prompt."""

    scenario: Scenario
    repeat: int
    index: int
    prompt: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job with its body encoded, so that nothing but sending is left to do."""

    job: Job
    body: bytes
    headers: dict[str, str]
    trace_id: str
    serialize_ns: int


class StreamError(Exception):
    """The response is not what the protocol promises, or says that the server failed."""


@dataclass(slots=True)
class _Response:
    """What has been learned from a response so far."""

    http_status: int | None = None
    headers_ns: int | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    end_ns: int | None = None
    parse_ns: int = 0
    done: bool = False
    usage: object = None

    def take(self, event: dict[str, Any], stamp_ns: int) -> None:
        if event.get("error"):
            raise StreamError(f"server error: {_message(event)}")
        self.usage = event.get("usage") or self.usage
        try:
            output = any(_is_output(choice) for choice in event.get("choices") or ())
        except (AttributeError, TypeError) as error:
            raise StreamError(f"malformed response: {_one_line(str(event))}") from error
        if output:
            self.first_ns = self.first_ns or stamp_ns
            self.last_ns = stamp_ns


def prepare(target: Target, job: Job) -> Prepared:
    """Encode the body and draw the trace context (W3C: version, trace, parent, sampled)."""
    scenario = job.scenario
    request: dict[str, Any] = {
        "model": target.model,
        "max_tokens": scenario.max_tokens,
        "temperature": 0,
        # Else a model that ends early makes decode times incomparable.
        "ignore_eos": True,
        "stream": scenario.stream,
    }
    if scenario.route == "chat":
        request["messages"] = [{"role": "user", "content": job.prompt}]
    else:
        request["prompt"] = job.prompt
    if scenario.stream:
        request["stream_options"] = {"include_usage": True}
    trace_id = secrets.token_hex(16)
    headers = {
        "Content-Type": "application/json",
        "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
    }
    if target.session is not None:
        headers["X-Session-ID"] = f"{target.session}-{job.index}"
    begun = time.perf_counter_ns()
    body = json.dumps(request).encode()
    return Prepared(job, body, headers, trace_id, time.perf_counter_ns() - begun)


async def send(session: aiohttp.ClientSession, target: Target, prepared: Prepared) -> RequestResult:
    """Make the request; whatever goes wrong becomes a result with `status="error"`."""
    response = _Response()
    start_unix_ns = time.time_ns()
    sent_ns = time.perf_counter_ns()
    try:
        async with asyncio.timeout(target.timeout_s):
            await _exchange(session, target, prepared, response)
        error = None
    except TimeoutError:
        error = f"timeout after {target.timeout_s:g} s"
    except aiohttp.ClientConnectorError as failure:
        error = f"cannot connect: {failure.os_error.strerror or failure}"
    except (aiohttp.ClientError, OSError) as failure:
        error = f"disconnected: {failure or type(failure).__name__}"
    except StreamError as failure:
        error = str(failure)
    return _result(prepared, response, start_unix_ns, sent_ns, error)


async def _exchange(
    session: aiohttp.ClientSession, target: Target, prepared: Prepared, response: _Response
) -> None:
    scenario = prepared.job.scenario
    async with session.post(
        target.url + _PATHS[scenario.route], data=prepared.body, headers=prepared.headers
    ) as http:
        response.headers_ns = time.perf_counter_ns()
        response.http_status = http.status
        if http.status != 200:
            raise StreamError(f"HTTP {http.status}: {_reason(await http.read())}")
        if scenario.stream:
            await _read_stream(http.content, response)
        else:
            _read_whole(await http.read(), response)
        response.end_ns = time.perf_counter_ns()
    if scenario.stream and response.first_ns is None:
        raise StreamError("malformed response: the stream brought no token")


async def _read_stream(content: aiohttp.StreamReader, response: _Response) -> None:
    rest = b""
    async for block in content.iter_any():
        stamp_ns = time.perf_counter_ns()
        *lines, rest = (rest + block).split(b"\n")
        for event in _events(lines, response):
            response.take(event, stamp_ns)
        response.parse_ns += time.perf_counter_ns() - stamp_ns
    if not response.done:
        raise StreamError("disconnected: the stream ended before [DONE]")


def _events(lines: list[bytes], response: _Response) -> Iterator[dict[str, Any]]:
    for line in lines:
        # Server-sent events: other fields, comments and blank lines mean nothing here.
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            response.done = True
        else:
            yield _json_object(data)


def _read_whole(body: bytes, response: _Response) -> None:
    begun = time.perf_counter_ns()
    event = _json_object(body)
    if event.get("error"):
        raise StreamError(f"server error: {_message(event)}")
    if not event.get("choices"):
        raise StreamError("malformed response: no choices")
    response.usage = event.get("usage")
    response.parse_ns = time.perf_counter_ns() - begun


def _is_output(choice: dict[str, Any]) -> bool:
    """Whether a choice of a stream event stands for generated output.

    vLLM opens a chat stream with an event that has the role and empty content, sent
    together with the first token's; later events may be empty too (half a character), and
    each of them is a token.
    """
    delta = choice.get("delta")
    if delta is None or "role" not in delta:
        return True
    return any(value for key, value in delta.items() if key != "role")


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StreamError(f"malformed response: not JSON: {_short(data)}") from error
    if not isinstance(value, dict):
        raise StreamError(f"malformed response: not an object: {_short(data)}")
    return value


def _reason(body: bytes) -> str:
    """The message of an error response: OpenAI's and FastAPI's shapes, else its text."""
    try:
        return _message(json.loads(body))
    except (ValueError, AttributeError):
        return _short(body) or "no message"


def _message(event: dict[str, Any]) -> str:
    error = event.get("error") or event.get("detail") or event.get("message") or event
    message = error.get("message", error) if isinstance(error, dict) else error
    return _one_line(str(message))


def _short(data: bytes) -> str:
    return _one_line(data[: 4 * _MAX_REASON].decode(errors="replace"))


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 1] + "…"


def _count(usage: object, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else None


def _result(
    prepared: Prepared,
    response: _Response,
    start_unix_ns: int,
    sent_ns: int,
    error: str | None,
) -> RequestResult:
    def ms(start_ns: int | None, end_ns: int | None) -> float | None:
        return None if start_ns is None or end_ns is None else (end_ns - start_ns) / 1e6

    job = prepared.job
    total_ms = ms(sent_ns - prepared.serialize_ns, response.end_ns)
    return RequestResult(
        scenario=job.scenario.name,
        repeat=job.repeat,
        index=job.index,
        trace_id=prepared.trace_id,
        start_unix_ns=start_unix_ns,
        status="ok" if error is None else "error",
        error=error,
        http_status=response.http_status,
        prompt_tokens=_count(response.usage, "prompt_tokens"),
        completion_tokens=_count(response.usage, "completion_tokens"),
        serialize_ms=prepared.serialize_ns / 1e6,
        http_overhead_ms=ms(sent_ns, response.headers_ns),
        prefill_ms=ms(response.headers_ns, response.first_ns),
        decode_ms=ms(response.first_ns, response.last_ns),
        parse_ms=response.parse_ns / 1e6 if response.end_ns is not None else None,
        ttft_ms=ms(sent_ns, response.first_ns),
        total_ms=total_ms,
    )
