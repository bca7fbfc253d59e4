"""The level, switched while requests run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.checks import check_endings, check_engine_spans, check_nesting
from tests.support.mixed_load import Sent, make_requests, send_all
from tests.support.serving import Serving, Traces, wait_until_closed
from vllm_codesign import semconv as S

pytestmark = pytest.mark.vllm


@pytest.fixture(autouse=True)
def level_of_before(serving: Serving) -> Iterator[None]:
    before = serving.session.level
    yield
    serving.session.level = before


def _requests(serving: Serving, count: int, seed: int) -> list[Sent]:
    found = make_requests(serving.model, 4 * count, seed=seed)
    return [r for r in found if r.expected is S.Outcome.COMPLETED][:count]


def _stored(serving: Serving, requests: list[Sent]) -> tuple[Traces, list[Sent]]:
    """What is stored once a request sent last is, and which of `requests` is in it."""
    last = _requests(serving, 1, seed=99_000 + time.monotonic_ns() % 1000)
    asyncio.run(send_all(serving.url, last))
    traces = serving.traces([r.trace_id for r in last])
    return traces, [r for r in requests if r.trace_id in traces.by_id]


def test_off_means_no_traces_and_a_server_that_serves(serving: Serving) -> None:
    session = serving.session
    quiet, loud = _requests(serving, 16, seed=21), _requests(serving, 16, seed=22)
    session.level = 0
    asyncio.run(send_all(serving.url, quiet))
    assert all(r.status == 200 for r in quiet)
    session.level = 1
    asyncio.run(send_all(serving.url, loud))
    traces = serving.traces([r.trace_id for r in loud])
    assert not [r for r in quiet if r.trace_id in traces.by_id]
    check_endings(loud, traces)
    check_engine_spans(loud, traces)
    levels = {traces.one(r.trace_id).root.attributes[S.LEVEL.key] for r in loud}
    assert levels == {"request"}


def test_switching_under_load_leaves_nothing_open_and_nothing_untrue(serving: Serving) -> None:
    """Off and on again four times a second: a trace that began is told to its end."""
    session = serving.session
    requests = _requests(serving, 60, seed=23)
    before = set(serving.traces([]).by_id)
    over = threading.Event()

    def switch() -> None:
        while not over.is_set():
            for level in (0, 2):
                session.level = level
                over.wait(0.25)

    switching = threading.Thread(target=switch)
    switching.start()
    try:
        asyncio.run(send_all(serving.url, requests))
    finally:
        over.set()
        switching.join()
    session.level = 2
    assert all(r.status == 200 for r in requests)
    wait_until_closed(session)
    traces, traced = _stored(serving, requests)
    assert 0 < len(traced) < len(requests), f"{len(traced)} of {len(requests)} traced"
    check_endings(traced, traces)
    fresh = [t for t in traces.all if f"{t.trace_id:032x}" not in before]
    check_nesting(Traces(fresh, {}))
    for trace in fresh:
        assert trace.root.duration_ns < 120e9, trace.root
        # What came in while the level was off is not traced from half way on.
        assert trace.root.kind == "server" or trace.root.links, trace.root
    for sent in traced:
        for linked in traces.linked_to(traces.one(sent.trace_id)):
            assert linked.root.duration_ns < 5e9, linked.root
    run = serving.capture.load()
    assert run.counters["hook_errors"] == 0


def test_afterwards_traces_are_whole_again(serving: Serving) -> None:
    requests = _requests(serving, 24, seed=24)
    asyncio.run(send_all(serving.url, requests))
    traces = serving.traces([r.trace_id for r in requests])
    check_endings(requests, traces)
    check_engine_spans(requests, traces)
