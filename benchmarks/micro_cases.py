"""What is timed: the recorder's calls, and rows of the hook tables around stand-ins for vLLM.

The rows are the real ones, wrapped by the real `make`. Only the objects of vLLM that they
read are stand-ins, with the few attributes that the rows name.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from types import SimpleNamespace as Stub
from typing import Any

from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.hooks.table import Hook
from vllm_codesign.hooks.wrap import timed
from vllm_codesign.plugin import TABLES
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Field, Kind

BATCH = 16
"""Requests in a step."""

clock = time.monotonic_ns
ROWS: dict[str, Hook] = {hook.id: hook for table in TABLES for hook in table.HOOKS}
_ID = "cmpl-0123456789abcdef0123456789abcdef-0-01234567"


@dataclass(frozen=True, slots=True)
class Case:
    """`run(n)` does it n times and returns the nanoseconds; `units` are what one time holds.

    The figure is what it takes more than the case named by `more_than`, per unit; a case
    that names none is there to be compared with.
    """

    name: str
    run: Callable[[int], int]
    more_than: str
    units: int = 1
    level: int = 1


def wrapped(row: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """`original` as the installer would wrap it for this row."""
    hook = ROWS[row]
    return hook.make(original, getters_for(original, hook.reads))


def calls(function: Callable[..., Any], *args: Any) -> Callable[[int], int]:
    """A loop that calls `function(*args)`."""

    def run(n: int) -> int:
        begun = clock()
        for _ in repeat(None, n):
            function(*args)
        return clock() - begun

    return run


def _empty(n: int) -> int:
    begun = clock()
    for _ in repeat(None, n):
        pass
    return clock() - begun


def _record(n: int) -> int:
    emit, kind = active.emit, int(Kind.REQ_SEND)
    begun = clock()
    for _ in repeat(None, n):
        emit(kind, 5, clock())
    return clock() - begun


def _recording_advice(t0: int, t1: int, _result: Any, request: Any) -> None:
    active.emit(Kind.REQ_SEND, request.key, t0, t1)


def _counting_advice(t0: int, t1: int, _result: Any, request: Any) -> None:
    request.spent += t1 - t0


class _Hooked:
    """A method, plain and with advice, called as vLLM calls its own: through the instance."""

    def plain(self, request: Any) -> None:
        return None

    recording = timed(_recording_advice)(plain, getters_for(plain, ("request",)))
    counting = timed(_counting_advice)(plain, getters_for(plain, ("request",)))


def general_cases() -> list[Case]:
    hooked, request = _Hooked(), Stub(key=5, spent=0)
    return [
        Case("empty", _empty, ""),
        Case("record", _record, "empty"),
        Case("plain_call", calls(hooked.plain, request), ""),
        Case("hooked_call", calls(hooked.recording, request), "plain_call"),
        Case("counting_call", calls(hooked.counting, request), "plain_call"),
        Case("dormant_call", calls(hooked.recording, request), "plain_call", level=0),
        Case("key", calls(active.key_of, _ID), "empty"),
        Case("string", calls(active.emit_string, 5, Field.REQUEST_ID, _ID), "empty"),
        Case("intervals", calls(active.emit_intervals, 5, list(range(32))), "empty"),
    ]


def engine_cases() -> list[Case]:
    """One step of EngineCore with BATCH running requests."""
    ids = [f"{_ID}{number}" for number in range(BATCH)]
    requests = [
        Stub(request_id=i, num_prompt_tokens=100, num_tokens=100, num_computed_tokens=100)
        for i in ids
    ]
    scheduler = Stub(
        waiting=deque(), running=requests, requests=dict(zip(ids, requests, strict=True))
    )
    tokens = dict.fromkeys(ids, 1)
    cached = Stub(resumed_req_ids=())
    first = Stub(
        scheduled_new_reqs=[Stub(req_id=i) for i in ids],
        scheduled_cached_reqs=cached,
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=BATCH,
    )
    step = Stub(
        **{**vars(first), "scheduled_new_reqs": []},
        scheduled_spec_decode_tokens={},
        codesign_step=1,
    )
    outputs = {0: Stub(outputs=[Stub(request_id=i, new_token_ids=[1]) for i in ids])}
    blocks = Stub(blocks=([],))

    def add_request(self: Any, request: Any) -> None:
        return None

    def admit(self: Any) -> Any:
        return first

    def schedule(self: Any) -> Any:
        return step

    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        return outputs

    def allocate_slots(
        self: Any,
        request: Any,
        num_new_tokens: int,
        num_external_computed_tokens: int = 0,
        new_computed_blocks: Any = None,
    ) -> Any:
        return blocks

    def model_forward() -> None:
        return None

    def execute_model(self: Any, scheduler_output: Any) -> None:
        model_forward()

    hooked_forward = wrapped("worker.forward", model_forward)

    def execute_model_hooked(self: Any, scheduler_output: Any) -> None:
        hooked_forward()

    def sample_tokens(self: Any, grammar_output: Any) -> None:
        return None

    add, begin = wrapped("scheduler.add_request", add_request), wrapped("scheduler.schedule", admit)
    update = wrapped("scheduler.update_from_output", update_from_output)
    for request in requests:
        add(scheduler, request)
    begin(scheduler)
    update(scheduler, first, None)
    worker = Stub(rank=0)
    return [
        Case("plain_schedule", calls(schedule, scheduler), ""),
        Case(
            "schedule",
            calls(wrapped("scheduler.schedule", schedule), scheduler),
            "plain_schedule",
            level=2,
        ),
        Case("plain_update", calls(update_from_output, scheduler, step, None), ""),
        Case("update", calls(update, scheduler, step, None), "plain_update", level=2),
        Case("plain_allocate", calls(allocate_slots, None, requests[0], 1), ""),
        Case(
            "allocate",
            calls(wrapped("kv.allocate", allocate_slots), None, requests[0], 1),
            "plain_allocate",
        ),
        Case("plain_execute", calls(execute_model, worker, step), ""),
        Case(
            "execute",
            calls(wrapped("worker.execute_model", execute_model_hooked), worker, step),
            "plain_execute",
            level=2,
        ),
        Case("plain_sample", calls(sample_tokens, worker, None), ""),
        Case(
            "sample",
            calls(wrapped("worker.sample_tokens", sample_tokens), worker, None),
            "plain_sample",
            level=2,
        ),
    ]


def frontend_cases() -> list[Case]:
    """One batch of outputs in the API server, and the sends of one stream."""
    ids = [f"{_ID}{number}" for number in range(BATCH)]
    states = {i: Stub(detokenizer=Stub()) for i in ids}
    parameters = Stub(extra_args=None)
    processor = Stub(tracing_enabled=False, request_states=states)
    batch = [Stub(request_id=i, new_token_ids=[1], finish_reason=None) for i in ids]

    def add_request(self: Any, request: Any, prompt: Any, parent: Any, request_index: int) -> None:
        return None

    def process_outputs(
        self: Any, engine_core_outputs: Any, engine_core_timestamp: Any, iteration_stats: Any
    ) -> None:
        return None

    def update(self: Any, new_token_ids: Any, stop_terminated: Any) -> None:
        return None

    add = wrapped("output_processor.add_request", add_request)
    for request_id in ids:
        add(
            processor,
            Stub(request_id=request_id, prompt_token_ids=[1], sampling_params=parameters),
            None,
            None,
            0,
        )
    detokenizer = states[ids[0]].detokenizer
    process = wrapped("output_processor.process_outputs", process_outputs)
    return [
        Case("plain_outputs", calls(process_outputs, processor, batch, 1.0, None), "", BATCH),
        Case("output", calls(process, processor, batch, 1.0, None), "plain_outputs", BATCH),
        Case("plain_detokenize", calls(update, detokenizer, [1], False), ""),
        Case(
            "detokenize",
            calls(wrapped("detokenizer.update", update), detokenizer, [1], False),
            "plain_detokenize",
        ),
        Case("plain_sends", _stream(_application), "", _SENDS),
        Case("send", _stream(wrapped("http.application", _application)), "plain_sends", _SENDS),
        Case("plain_endpoint", _stream(_endpoint), ""),
        Case(
            "endpoint", _stream(wrapped("http.application", _hooked_endpoint())), "plain_endpoint"
        ),
    ]


_SENDS = 256
"""So many that what a request costs but once is little beside them."""

_BODY = {"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True}
_SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "headers": [
        (b"host", b"127.0.0.1:8000"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"user-agent", b"python"),
        (b"content-length", b"900"),
        (b"content-type", b"application/json"),
    ],
}
_PARAMETERS = Stub(model="a-model-of-some-name", max_tokens=32, n=1, temperature=0.0, stream=True)


async def _application(self: Any, scope: Any, receive: Any, send: Any) -> None:
    for _ in repeat(None, _SENDS):
        await send(_BODY)


async def run_endpoint_function(dependant: Any, values: Any, is_coroutine: bool) -> None:
    return None


async def _endpoint(self: Any, scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await run_endpoint_function(None, {"request": _PARAMETERS}, True)


def _hooked_endpoint() -> Callable[..., Any]:
    """The same with the endpoint's row in it, which needs the application's to know its request."""
    run = wrapped("http.endpoint", run_endpoint_function)

    async def endpoint(self: Any, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await run(None, {"request": _PARAMETERS}, True)

    return endpoint


async def _source() -> Any:
    return {"type": "http.request", "body": b"{}"}


async def _sink(message: Any) -> None:
    return None


def _stream(application: Callable[..., Any]) -> Callable[[int], int]:
    """One request to the application, n times over."""

    async def drive(n: int) -> int:
        begun = clock()
        for _ in repeat(None, n):
            await application(None, dict(_SCOPE), _source, _sink)
        return clock() - begun

    return lambda n: asyncio.run(drive(n))
