"""Every nanosecond of a real server's requests has a name, and nearly all of them a good one."""

from __future__ import annotations

import asyncio
from statistics import quantiles

import pytest

from tests.support.mixed_load import Sent, make_requests, send_all
from tests.support.serving import Serving, Traces
from vllm_codesign import semconv as S
from vllm_codesign.accounting import Timeline, account, timelines
from vllm_codesign.analysis.accounts import recorded
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.semconv import Part
from vllm_codesign.store.reader import read_steps

pytestmark = pytest.mark.vllm

CLIENTS = (1, 4, 16)
UNEXPLAINED = (Part.UNATTRIBUTED.value, Part.GAP_OTHER.value)


@pytest.fixture(scope="module")
def loads(serving: Serving) -> dict[int, list[RequestTrace]]:
    """Completed requests of each number of clients."""
    before = serving.session.level
    serving.session.level = 2
    sent: dict[int, list[Sent]] = {}
    for clients in CLIENTS:
        found = make_requests(serving.model, 12 * max(clients, 4), seed=50 + clients)
        sent[clients] = [r for r in found if r.expected is S.Outcome.COMPLETED][: 8 * clients + 8]
        asyncio.run(send_all(serving.url, sent[clients], clients=clients))
    serving.session.level = before
    traces = serving.traces([r.trace_id for requests in sent.values() for r in requests])
    return {
        clients: [traces.one(r.trace_id) for r in requests] for clients, requests in sent.items()
    }


@pytest.fixture(scope="module")
def engines(serving: Serving, loads: dict[int, list[RequestTrace]]) -> dict[int, Timeline]:
    return timelines(read_steps(serving.capture))


def test_the_parts_on_every_server_span_sum_to_its_duration(
    serving: Serving, loads: dict[int, list[RequestTrace]]
) -> None:
    checked = 0
    for trace in serving.traces([]).all:
        if trace.root.kind != "server":
            continue
        parts = recorded(trace) or {}
        assert sum(parts.values()) == trace.root.duration_ns, trace.root
        exposed = sum(ns for part, ns in parts.items() if Part(part) in S.HOST_PARTS)
        assert trace.root.attributes[S.HOST_EXPOSED.key] == exposed
        device = sum(parts.get(p.value, 0) for p in (Part.DEVICE_PREFILL, Part.DEVICE_DECODE))
        hidden = trace.root.attributes[S.HOST_HIDDEN.key]
        assert isinstance(hidden, int)
        assert 0 <= hidden <= device
        checked += 1
    assert checked >= sum(map(len, loads.values()))


@pytest.mark.parametrize("clients", CLIENTS)
def test_hardly_anything_is_unexplained(loads: dict[int, list[RequestTrace]], clients: int) -> None:
    shares = []
    for trace in loads[clients]:
        parts = recorded(trace) or {}
        shares.append(sum(parts.get(p, 0) for p in UNEXPLAINED) / trace.root.duration_ns)
    p95 = quantiles(shares, n=20, method="inclusive")[18]
    print(f"{clients} clients: unexplained p95 {100 * p95:.2f} %, worst {100 * max(shares):.2f} %")
    assert p95 < 0.02, sorted(shares)[-5:]


def test_the_capture_gives_the_same_integers(
    loads: dict[int, list[RequestTrace]], engines: dict[int, Timeline]
) -> None:
    for trace in (trace for traces in loads.values() for trace in traces):
        found = account(trace, engines)
        assert found.parts == recorded(trace), trace.root
        assert found.hidden_ns == trace.root.attributes[S.HOST_HIDDEN.key]


def test_prefill_and_decode_name_their_steps(
    loads: dict[int, list[RequestTrace]], engines: dict[int, Timeline]
) -> None:
    for trace in (trace for traces in loads.values() for trace in traces):
        for span in (*trace.named(S.PREFILL.name), *trace.named(S.DECODE.name)):
            if span.name == S.DECODE.name and span.attributes[S.TOKENS.key] == 1:
                continue  # one token comes out of the prompt's last step
            first, last = span.attributes[S.STEP_FIRST.key], span.attributes[S.STEP_LAST.key]
            count = span.attributes[S.STEP_COUNT.key]
            assert isinstance(first, int)
            assert isinstance(last, int)
            assert isinstance(count, int)
            assert 1 <= count <= last - first + 1
            assert span.attributes[S.STEP_DEVICE.key] > 0  # type: ignore[operator]


def test_the_device_works_for_every_request(loads: dict[int, list[RequestTrace]]) -> None:
    for trace in (trace for traces in loads.values() for trace in traces):
        parts = recorded(trace) or {}
        assert parts[Part.DEVICE_PREFILL.value] > 0
        assert not {"engine.queue", "engine.prefill", "engine.decode"} & parts.keys()


def test_below_step_level_the_engine_s_phases_stand_for_themselves(serving: Serving) -> None:
    session = serving.session
    before, session.level = session.level, 1
    requests = [
        r for r in make_requests(serving.model, 40, seed=77) if r.expected is S.Outcome.COMPLETED
    ][:8]
    asyncio.run(send_all(serving.url, requests))
    session.level = before
    traces: Traces = serving.traces([r.trace_id for r in requests])
    for sent in requests:
        root = traces.one(sent.trace_id).root
        parts = recorded(traces.one(sent.trace_id)) or {}
        assert root.attributes[S.LEVEL.key] == "request"
        assert sum(parts.values()) == root.duration_ns
        assert parts["engine.prefill"] > 0
        assert not [part for part in parts if part.startswith(("device.", "queue."))]
