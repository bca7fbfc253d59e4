"""From the API server into EngineCore and back: dispatch, outputs, detokenization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vllm_codesign.hooks.exact import compile_wrapper, exact_parameters
from vllm_codesign.hooks.frontend_state import (
    BY_DETOKENIZER,
    CURRENT,
    DECODED_AT,
    DISPATCHED_AT,
    PROCESS_NS,
    REQUESTS,
    ROOTS,
    UNTRACED,
    EngineRequest,
    current,
    finish,
)
from vllm_codesign.hooks.installer import SignatureChanged
from vllm_codesign.hooks.table import Getter, Hook, Wrapper
from vllm_codesign.hooks.wrap import entered, timed, timed_async
from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import LEVEL, clock
from vllm_codesign.recorder.layout import Field, Kind

_ABORT = 2  # vllm.v1.engine.FinishReason.ABORT, the same number in both versions
_MAX_UNCLAIMED = 1024


def _dispatched(t0: int, *_: Any) -> None:
    # A context variable: prompts of one HTTP request are dispatched by tasks of their own.
    DISPATCHED_AT.set(t0)
    PROCESS_NS.set(0)


def _nothing(*_: Any) -> None:
    """For rows whose end says nothing."""


def _processed(t0: int, t1: int, _result: Any) -> None:
    PROCESS_NS.set(t1 - t0)


def _registered(
    t0: int, t1: int, _result: Any, processor: Any, request: Any, request_index: int
) -> None:
    """`OutputProcessor.add_request`: the one place common to all routes, `n` > 1 and offline.

    From here on the internal request id is final.
    """
    request_id = request.request_id
    if request_id in REQUESTS:
        return  # a further chunk of a streaming input
    # Also of a response that is over: `background=true` hands its work in after that.
    root = CURRENT.get()
    if root is UNTRACED or (root is None and not LEVEL.byte[0]):
        return  # it began while we were dormant
    if root is not None and processor.tracing_enabled:
        # vLLM's own span, made from these headers, becomes a child of ours.
        request.trace_headers = {**(request.trace_headers or {}), "traceparent": root.traceparent()}
    key = active.key_of(request_id)
    state = REQUESTS[request_id] = EngineRequest(key)
    vllm_state = processor.request_states.get(request_id)
    detokenizer = getattr(vllm_state, "detokenizer", None)
    if detokenizer is not None:
        state.detokenizer_id = id(detokenizer)
        BY_DETOKENIZER[id(detokenizer)] = state
    prompt = request.prompt_token_ids
    active.emit(
        Kind.REQ,
        key,
        DISPATCHED_AT.get() or t0,
        t1,
        root.key if root is not None else 0,
        PROCESS_NS.get(),
        len(prompt) if prompt is not None else 0,
        request_index,
    )
    active.emit_string(key, Field.REQUEST_ID, request_id)
    _tell_other_half(key, request.sampling_params)
    if root is not None and not root.ended:
        root.tell()


def _tell_other_half(key: int, sampling_params: Any) -> None:
    """`kv_transfer_params`, where a router names the request that computes this one's prompt.

    The names are those of the connectors: NIXL's tell the request, Mooncake's and MoRIIO's an id
    that the router gives to both halves.
    """
    extra = sampling_params.extra_args if sampling_params is not None else None  # None: pooling
    transfer = extra.get("kv_transfer_params") if extra else None
    if not isinstance(transfer, Mapping):
        return
    for name, field in _OTHER_HALF:
        value = transfer.get(name)
        if isinstance(value, str):
            active.emit_string(key, field, value)


_OTHER_HALF = (
    ("remote_request_id", Field.REMOTE_REQUEST_ID),
    ("remote_engine_id", Field.REMOTE_ENGINE_ID),
    ("transfer_id", Field.TRANSFER_ID),
)


def _sent(t0: int, t1: int, _result: Any, request: Any) -> None:
    """Encoded and handed to the socket. Aborts are lists and utilities tuples: not ours."""
    state = REQUESTS.get(getattr(request, "request_id", None))  # type: ignore[arg-type]
    # Further chunks of a streaming input are sent later.
    if state is not None and state.sent is None:
        state.sent = t0, t1


def _decoded(_t0: int, t1: int, result: Any) -> None:
    stamp = getattr(result, "timestamp", 0.0)
    if stamp and getattr(result, "outputs", None):
        if len(DECODED_AT) > _MAX_UNCLAIMED:
            DECODED_AT.clear()  # nobody takes them up: the engine is being torn down
        DECODED_AT[stamp] = t1


def _outputs_processed(
    t0: int, t1: int, _result: Any, processor: Any, outputs: Any, stamp: float | None
) -> None:
    """One batch of engine outputs has been detokenized and queued for its requests."""
    if not outputs or stamp is None:
        return
    left_engine = int(stamp * 1e9)
    took = t1 - left_engine
    decoded = DECODED_AT.pop(stamp, 0) or t0
    unfinished, find = processor.request_states, REQUESTS.get
    for output in outputs:
        request_id = output.request_id
        request = find(request_id)
        if request is None:
            continue
        if tokens := len(output.new_token_ids):
            request.tokens += tokens
            request.stamps.append(left_engine)
        request.outputs += 1
        request.return_ns += took
        # A stop string ends a request here that the engine still runs.
        if output.finish_reason is not None or request_id not in unfinished:
            reason = output.finish_reason
            active.emit(
                Kind.REQ_RETURN,
                request.key,
                decoded,
                t0,
                t1,
                request.return_ns,
                request.outputs,
            )
            finish(request_id, request, 0 if reason is None else int(reason))


def _taken(t0: int) -> None:
    """The request's coroutine closes its collector: it has had its last output."""
    root = current()
    if root is not None:
        root.taken_at = t0


def _aborted(_t0: int, _t1: int, aborted: Any) -> None:
    # What it returned, which are internal ids: what it was given may be the callers' own.
    for request_id in aborted or ():
        request = REQUESTS.get(request_id)
        if request is not None:
            finish(request_id, request, _ABORT)


def _failed(t0: int, *_: Any) -> None:
    """The engine died: every request gets the error."""
    for request_id, request in list(REQUESTS.items()):
        active.emit(Kind.REQ_FAILED, request.key, t0)
        finish(request_id, request, None)


_DETOKENIZED = """\
def codesign_wrapper(PARAMETERS):
    codesign_request = codesign_find(codesign_id(VALUES))
    if codesign_request is None:
        return codesign_original(PARAMETERS)
    codesign_t0 = codesign_clock()
    codesign_result = codesign_original(PARAMETERS)
    codesign_request.detok_end = codesign_t1 = codesign_clock()
    codesign_request.detok_ns += codesign_t1 - codesign_t0
    if not codesign_request.detok_calls:
        codesign_request.detok_start = codesign_t0
        codesign_request.detok_first_ns = codesign_t1 - codesign_t0
    codesign_request.detok_calls += 1
    return codesign_result
"""
"""Called for every token, so nothing but what it takes; nothing in it can fail."""


def make_detokenize(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """`update` of the incremental detokenizer; only traced requests have one that is known."""
    parameters = exact_parameters(original, getters)
    if parameters is None:
        raise SignatureChanged("takes more than plain parameters")
    return compile_wrapper(
        _DETOKENIZED,
        original,
        getters,
        parameters,
        find=BY_DETOKENIZER.get,
        id=id,
        clock=clock,
    )


HOOKS: tuple[Hook, ...] = (
    Hook(
        "async_llm.add_request",
        ("vllm.v1.engine.async_llm:AsyncLLM.add_request",),
        timed_async(_nothing, before=_dispatched, while_open=ROOTS),
    ),
    Hook(
        "llm_engine.add_request",
        ("vllm.v1.engine.llm_engine:LLMEngine.add_request",),
        entered(_dispatched),
        required=False,  # offline use only
    ),
    Hook(
        "input_processor.process_inputs",
        ("vllm.v1.engine.input_processor:InputProcessor.process_inputs",),
        timed(_processed, while_open=ROOTS),
        required=False,  # an attribute of engine.dispatch
    ),
    Hook(
        "output_processor.add_request",
        ("vllm.v1.engine.output_processor:OutputProcessor.add_request",),
        timed(_registered, while_open=ROOTS),
        ("self", "request", "request_index"),
    ),
    Hook(
        "async_client.send",
        ("vllm.v1.engine.core_client:AsyncMPClient._send_input",),
        timed(_sent, while_open=REQUESTS),
        ("request",),
        required=False,  # an attribute of engine.dispatch
    ),
    Hook(
        "sync_client.send",
        ("vllm.v1.engine.core_client:SyncMPClient._send_input",),
        timed(_sent, while_open=REQUESTS),
        ("request",),
        required=False,
    ),
    Hook(
        "client.decode",
        ("vllm.v1.serial_utils:MsgpackDecoder.decode",),
        timed(_decoded, while_open=REQUESTS),
        required=False,  # splits engine.return
    ),
    Hook(
        "output_processor.process_outputs",
        ("vllm.v1.engine.output_processor:OutputProcessor.process_outputs",),
        timed(_outputs_processed, while_open=REQUESTS),
        ("self", "engine_core_outputs", "engine_core_timestamp"),
    ),
    Hook(
        "output_collector.close",
        ("vllm.v1.engine.output_processor:RequestOutputCollector.close",),
        entered(_taken, while_open=ROOTS),
        required=False,  # the event loop's share after the last output
    ),
    Hook(
        "output_processor.abort_requests",
        ("vllm.v1.engine.output_processor:OutputProcessor.abort_requests",),
        timed(_aborted, while_open=REQUESTS),
    ),
    Hook(
        "output_processor.propagate_error",
        ("vllm.v1.engine.output_processor:OutputProcessor.propagate_error",),
        entered(_failed, while_open=REQUESTS),
    ),
    Hook(
        "detokenizer.update",
        ("vllm.v1.engine.detokenizer:BaseIncrementalDetokenizer.update",),
        make_detokenize,
        ("self",),
        required=False,  # an aggregate beside the phases
    ),
)
