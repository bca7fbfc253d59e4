import json
import re

import pytest

from vllm_codesign.bench.client import Job, Target, prepare, send
from vllm_codesign.bench.load import open_load
from vllm_codesign.model.bench import RequestResult, Scenario

# A loaded machine may be late, never early; what is early is a wrong definition.
LATE_MS = 60.0


def scenario(**changes: object) -> Scenario:
    fields = {"name": "s", "concurrency": 1, "prompt_tokens": 10, "max_tokens": 3, **changes}
    return Scenario.model_validate(fields)


async def ask(server, timeout_s=10.0, session=None, **changes) -> RequestResult:
    target = Target(server.url, "fake", timeout_s, session)
    job = Job(scenario(**changes), 2, 7, "one two three")
    async with open_load(target) as load:
        return await send(load.session, target, prepare(target, job))


def around(value: float | None, expected_ms: float) -> bool:
    return value is not None and expected_ms - 2 <= value <= expected_ms + LATE_MS


@pytest.mark.parametrize("route", ["chat", "completions"])
async def test_each_timing_is_its_own_stretch(server, route):
    server.headers_s, server.first_s, server.gap_s, server.tail_s = 0.10, 0.15, 0.05, 0.08
    server.tokens = 4

    row = await ask(server, route=route)

    assert (row.status, row.error, row.http_status) == ("ok", None, 200)
    assert around(row.http_overhead_ms, 100)
    assert around(row.prefill_ms, 150)
    assert around(row.decode_ms, 150)
    assert around(row.ttft_ms, 250)
    assert around(row.total_ms, 480)
    assert (row.prompt_tokens, row.completion_tokens) == (4 + 5 * (route == "chat"), 4)


async def test_the_parts_sum_to_the_total_less_the_tail(server):
    server.headers_s = server.first_s = server.gap_s = 0.02

    row = await ask(server)

    assert row.ttft_ms == pytest.approx(row.http_overhead_ms + row.prefill_ms)
    parts = row.serialize_ms + row.http_overhead_ms + row.prefill_ms + row.decode_ms
    assert 0 <= row.total_ms - parts < LATE_MS
    assert 0 < row.parse_ms < row.total_ms


async def test_the_role_is_not_a_token_and_an_empty_text_is(server):
    server.first_s, server.tokens, server.gap_s = 0.1, 2, 0.1

    row = await ask(server)

    assert around(row.prefill_ms, 100)  # not 0, when the role came
    assert around(row.decode_ms, 100)  # to the second token, which has no text


async def test_without_streaming_there_is_no_first_token(server):
    server.headers_s = 0.05

    row = await ask(server, stream=False)

    assert row.status == "ok"
    assert around(row.http_overhead_ms, 50)
    assert (row.prefill_ms, row.decode_ms, row.ttft_ms) == (None, None, None)
    assert around(row.total_ms, 50)
    assert row.completion_tokens == 3


async def test_the_request_says_what_was_asked_for(server):
    row = await ask(server, session="agents")

    seen = server.seen[0]
    version, trace, parent, flags = seen.headers["traceparent"].split("-")
    assert (version, trace, flags) == ("00", row.trace_id, "01")
    assert re.fullmatch("[0-9a-f]{16}", parent)
    assert seen.headers["X-Session-ID"] == "agents-7"
    assert seen.body["max_tokens"] == 3
    assert seen.body["ignore_eos"] is True
    assert seen.body["stream_options"] == {"include_usage": True}
    assert (row.scenario, row.repeat, row.index) == ("s", 2, 7)


async def test_no_session_header_unless_asked_for(server):
    await ask(server)

    assert "X-Session-ID" not in server.seen[0].headers


@pytest.mark.parametrize(
    ("fault", "stream", "reason"),
    [
        ("refuse", True, "HTTP 400: too long"),
        ("hang", True, "timeout after 0.3 s"),
        ("drop", True, "disconnected: Server disconnected"),
        ("cut", True, "disconnected: "),
        ("no done", True, "disconnected: the stream ended before [DONE]"),
        ("no json", True, "malformed response: not JSON: {half"),
        ("odd", True, "malformed response: {'choices': [7]}"),
        ("engine", True, "server error: EngineDeadError"),
        ("no json", False, "malformed response: not JSON: <html>"),
        ("no choices", False, "malformed response: no choices"),
    ],
)
async def test_what_goes_wrong_is_an_error_with_its_reason(server, fault, stream, reason):
    server.fault = fault

    row = await ask(server, timeout_s=0.3, stream=stream)

    assert row.status == "error"
    assert row.error.startswith(reason)
    assert "\n" not in row.error
    assert row.total_ms is None


async def test_a_stream_without_tokens_is_an_error(server):
    server.tokens = 0

    assert (await ask(server)).error == "malformed response: the stream brought no token"


async def test_nobody_listening_is_an_error(server):
    target = Target("http://127.0.0.1:1", "fake")
    async with open_load(target) as load:
        row = await send(load.session, target, prepare(target, Job(scenario(), 0, 0, "x")))

    assert row.error.startswith("cannot connect: ")
    assert row.http_status is None


def test_a_body_is_encoded_once_and_timed():
    target = Target("http://x", "fake")
    prepared = prepare(target, Job(scenario(), 0, 0, "word " * 1000))

    assert prepared.serialize_ns > 0
    assert json.loads(prepared.body)["messages"][0]["content"].startswith("word")


def test_every_request_has_its_own_trace():
    target, job = Target("http://x", "fake"), Job(scenario(), 0, 0, "x")

    assert len({prepare(target, job).trace_id for _ in range(100)}) == 100
