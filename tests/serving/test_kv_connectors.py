"""KV connectors on a real server: what they were asked, loaded and stored, against vLLM's own
counters and LMCache's own log."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import kv
from tests.support.checks import check_endings, check_nesting
from tests.support.faults import roles
from tests.support.mixed_load import Sent, send_all
from tests.support.otlp_receiver import GrpcReceiver, Received, ReceivedSpan
from tests.support.serving import Serving, Traces, serve, wait_until
from tests.support.watched_ring import WatchedRing
from vllm_codesign import semconv as S
from vllm_codesign.bench.lmcache_server import ENVIRONMENT, LMCacheServer
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.store.capture import RunInfo

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
    ),
]
needs_lmcache = pytest.mark.skipif(
    importlib.util.find_spec("lmcache") is None, reason="LMCache is not installed: `make setup`"
)
WHOLE = ("--max-num-batched-tokens", "8192")
"""ExampleConnector stores what one step computes, and takes it for the whole prompt."""


@dataclass
class Run:
    """Requests one after the other, their traces, and vLLM's own counters over them."""

    requests: list[Sent]
    traces: Traces
    grown: dict[str, float]
    info: RunInfo
    lmcache_log: Path | None = None
    lmcache_spans: list[ReceivedSpan] = field(default_factory=list)
    second: list[RequestTrace] = field(default_factory=list)
    """Of prompts that had come before, and that the device's cache has lost."""

    def each(self) -> list[RequestTrace]:
        return [self.traces.one(request.trace_id) for request in self.requests]

    def total(self, attribute: S.Attribute) -> int:
        found = [span.attributes[attribute.key] for t in self.each() for span in t.named("prefill")]
        return sum(value for value in found if isinstance(value, int))


def _connector(name: str, **more: Any) -> dict[str, Any]:
    return {"kv_connector": name, "kv_role": "kv_both", "kv_connector_extra_config": more}


def _flags(config: dict[str, Any]) -> tuple[str, str]:
    return "--kv-transfer-config", json.dumps(config)


def _run(serving: Serving, log: Path | None = None, spans: Received | None = None) -> Run:
    requests = kv.prompts(serving.model)
    before = serving.metrics()
    kv.one_by_one(serving.url, requests)
    after = serving.metrics()
    traces = serving.traces([request.trace_id for request in requests])
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    run = Run(requests, traces, grown, serving.capture.load(), log)
    run.second = run.each()[3:]
    if spans is not None:
        # Sent in batches, the last request's too.
        wait_until(lambda: len(_of(spans.spans, REQUEST)) >= len(requests), 60, "LMCache's spans")
        run.lmcache_spans = list(spans.spans)
    return run


REQUEST, LOOKUP = "request", "mp.lookup_prefetch"
"""LMCache's spans. Its `mp.store` and `mp.retrieve` come from transfers that its server makes, not
from those that vLLM's workers make."""


def _of(spans: list[ReceivedSpan], name: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.name == name]


@pytest.fixture(scope="module", params=["lmcache", "example", "multi"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp(request.param)
    stored = [folder / "one", folder / "two"]
    for path in stored:
        path.mkdir()
    example = [_connector("ExampleConnector", shared_storage_path=str(path)) for path in stored]
    with ExitStack() as stack:
        log = received = None
        if request.param == "lmcache":
            if importlib.util.find_spec("lmcache") is None:
                pytest.skip("LMCache is not installed: run `make setup`")
            log = folder / "lmcache.log"
            receiver = stack.enter_context(GrpcReceiver())
            received = receiver.received
            tracing = ("--enable-tracing", "--otlp-endpoint", receiver.endpoint)
            cache = LMCacheServer(2, engine_driven=True, log_path=log, flags=tracing)
            flags = [*stack.enter_context(cache).vllm_flags]
        elif request.param == "example":
            flags = [*_flags(example[0]), *WHOLE]
        else:
            flags = [*_flags(_connector("MultiConnector", connectors=example)), *WHOLE]
        serving = stack.enter_context(serve(folder, [*kv.FLAGS, *flags], ENVIRONMENT))
        yield _run(serving, log, received)


def test_hits_are_vllms_own(run: Run) -> None:
    assert run.total(S.KV_TOKENS_HIT_EXTERNAL) == run.grown["vllm:external_prefix_cache_hits_total"]
    assert run.total(S.KV_TOKENS_HIT_HBM) == run.grown["vllm:prefix_cache_hits_total"]
    asked = sum(
        span.attributes[S.KV_TOKENS_ASKED.key]
        for trace in run.each()
        for span in trace.named(S.KV_CONNECTOR_LOOKUP.name)
        if "/" not in kv.connector_of(span)
    )
    assert asked == run.grown["vllm:external_prefix_cache_queries_total"]


def test_what_comes_again_is_loaded(run: Run) -> None:
    """LMCache in chunks of 256 tokens, ExampleConnector in blocks of 128."""
    whole = 4864 if run.lmcache_log is not None else 4992
    for trace in run.each()[:3]:
        assert trace.named(S.KV_LOAD.name) == ()
        stores = [s for s in trace.named(S.KV_STORE.name) if S.KV_TOKENS.key in s.attributes]
        # MultiConnector has each of its two children store all of it.
        assert len(stores) == (2 if "/" in kv.connector_of(stores[0]) else 1)
        assert {span.attributes[S.KV_TOKENS.key] for span in stores} == {whole}
    for trace in run.second:
        assert kv.tokens(trace, S.KV_LOAD.name) == whole
        (prefill,) = trace.named(S.PREFILL.name)
        assert prefill.attributes[S.PREFILL_COMPUTED.key] == kv.PROMPT_TOKENS - whole
    loaded = sum(kv.tokens(t, S.KV_LOAD.name) for t in run.each())
    assert loaded == run.grown["vllm:external_prefix_cache_hits_total"] == 4 * whole


def test_lmcaches_log_says_the_same(run: Run) -> None:
    if run.lmcache_log is None:
        pytest.skip("of LMCache alone")
    for name, verb in ((S.KV_LOAD.name, "Retrieved"), (S.KV_STORE.name, "Stored")):
        ours = sum(kv.tokens(t, name) for t in run.each())
        assert ours == kv.logged(run.lmcache_log, verb) > 0


def test_lmcaches_spans_carry_our_request_id(run: Run) -> None:
    if run.lmcache_log is None:
        pytest.skip("of LMCache alone")
    spans = run.lmcache_spans
    print(sorted(Counter(span.name for span in spans).items()))
    assert {span.name for span in spans} == {REQUEST, LOOKUP}
    for trace in run.each():
        (prefill,) = trace.named(S.PREFILL.name)
        mine = [s for s in spans if s.attributes["session_id"] == prefill.attributes[ID]]
        (root,), (lookup,) = _of(mine, REQUEST), _of(mine, LOOKUP)
        assert root.attributes["hit_tokens"] == prefill.attributes[S.KV_TOKENS_HIT_EXTERNAL.key]
        # No context reaches LMCache: the traces are its own.
        assert lookup.trace_id == root.trace_id != trace.trace_id
        assert root.parent_id == 0


ID = S.REQUEST_ID.key


def test_each_store_has_its_end(run: Run) -> None:
    """The worker copies the blocks here: it is over with the step, and the next poll sees it."""
    if run.lmcache_log is None:
        pytest.skip("of LMCache alone")
    logged = [int(n) for n in re.findall(r"Stored (\d+) tokens in", run.lmcache_log.read_text())]
    events = []
    for trace in run.each()[:3]:
        (store,) = trace.named(S.KV_STORE.name)
        mine = [event for event in store.events if event.name == S.EVENT_STORED]
        print(*(dict(event.attributes) for event in mine), sep="\n")
        assert all(store.start_ns < event.time_ns <= store.end_ns for event in mine)
        assert len(mine) > 1
        events += mine
    assert [event.attributes[S.KV_TOKENS.key] for event in events] == logged
    for event in events:
        resolution = int(str(event.attributes[S.KV_RESOLUTION.key]))
        assert 0 < resolution <= int(str(event.attributes[S.STORED_DURATION.key]))


def test_a_load_is_a_part_of_its_own(run: Run) -> None:
    """The load's own length, as far as the device did not work on a step of the request."""
    for trace in run.each():
        parts = {
            part: trace.root.attributes[f"codesign.part.{part.value}_ns"]
            for part in S.Part
            if f"codesign.part.{part.value}_ns" in trace.root.attributes
        }
        assert sum(ns for ns in parts.values() if isinstance(ns, int)) == trace.root.duration_ns
        loads = [s for s in trace.named(S.KV_LOAD.name) if "/" not in kv.connector_of(s)]
        assert parts.get(S.Part.KV_LOAD, 0) == sum(span.duration_ns for span in loads)


def test_an_end_is_as_sharp_as_it_says(run: Run) -> None:
    for trace in run.second:
        for span in trace.named(S.KV_LOAD.name):
            asynchronous = span.attributes[S.KV_ASYNCHRONOUS.key]
            assert asynchronous is (run.lmcache_log is not None)
            if asynchronous:
                resolution = span.attributes[S.KV_RESOLUTION.key]
                assert isinstance(resolution, int)
                assert 0 < resolution <= span.duration_ns


def test_every_connector_is_named(run: Run) -> None:
    found = {
        kv.connector_of(span)
        for trace in run.each()
        for span in trace.named(S.KV_CONNECTOR_LOOKUP.name)
    }
    example, multi = "ExampleConnector", "MultiConnector"
    expected = [{"LMCacheMPConnector"}, {example}, {multi, f"{multi}/{example}"}]
    assert found in expected
    rows = {row.row.partition("/")[2]: row.status for row in run.info.hooks}
    for name in found:
        method = f"kv_connector.{name.rpartition('/')[2]}.get_num_new_matched_tokens"
        assert rows[method] == "installed"


def test_all_is_well_formed(run: Run) -> None:
    check_endings(run.requests, run.traces)
    check_nesting(run.traces)
    for counter in ("hook_errors", "records_lost", "traces_failed", "orphan_records"):
        assert run.info.counters[counter] == 0, counter


@needs_lmcache
def test_lmcache_killed_in_mid_load(tmp_path: Path) -> None:
    """vLLM answers as it would without us; what failed is on the spans; nothing stays open."""
    log = tmp_path / "lmcache.log"
    with ExitStack() as stack:
        cache = stack.enter_context(LMCacheServer(2, engine_driven=True, log_path=log))
        config = json.loads(cache.vllm_flags[1])
        extra = config["kv_connector_extra_config"]
        extra["lmcache.mp.mq_timeout"], extra["lmcache.mp.heartbeat_interval"] = 5, 1
        config["kv_load_failure_policy"] = "recompute"
        # Room for three of the prompts: six evict one another, and three load at once.
        room = ("--num-gpu-blocks-override", "130", "--max-model-len", "9000")
        serving = stack.enter_context(serve(tmp_path, [*room, *_flags(config)], ENVIRONMENT))
        requests = kv.prompts(serving.model, "ABCDEFABCA")
        kv.one_by_one(serving.url, requests[:6])
        late = requests[6:]
        engine = roles(serving.session)["engine_core"]
        ring = WatchedRing(serving.session.folder / f"process-{engine}.ring")
        stack.callback(ring.close)
        sender = threading.Thread(
            target=lambda: asyncio.run(send_all(serving.url, late, clients=3))
        )
        sender.start()
        # Planned by the scheduler, not yet with the worker.
        ring.wait_for((Kind.KV_LOAD,), 60)
        os.killpg(cache.pid, signal.SIGKILL)
        sender.join(300)
        assert not sender.is_alive(), "vLLM still waits for LMCache"
        assert {request.status for request in late} == {200}
        session = serving.session
        wait_until(lambda: session.open_requests == 0, 40, "nothing is open")
        traces = serving.traces([request.trace_id for request in requests])
        time.sleep(1)
        info = serving.capture.load()
    check_nesting(traces)
    not_there = 0
    for request in late:
        trace = traces.one(request.trace_id)
        loads = trace.named(S.KV_LOAD.name)
        lost = [int(str(span.attributes.get(S.KV_TOKENS_RECOMPUTED.key, 0))) for span in loads]
        not_there += sum(lost)
        loaded = sum(int(str(span.attributes[S.KV_TOKENS.key])) for span in loads) - sum(lost)
        (prefill,) = trace.named(S.PREFILL.name)
        of = prefill.attributes
        assert of[S.KV_TOKENS_HIT_EXTERNAL.key] == loaded
        parts = (S.KV_TOKENS_HIT_HBM, S.KV_TOKENS_HIT_EXTERNAL, S.PREFILL_COMPUTED)
        assert sum(int(str(of[part.key])) for part in parts) == kv.PROMPT_TOKENS
        print(
            f"{request.wall_ns // 10**6} ms, loads of",
            [(span.duration_ns // 10**6, span.attributes[S.KV_TOKENS.key]) for span in loads],
            f"ms and tokens, not there {lost}",
        )
    assert not_there > 0
    assert info.counters["hook_errors"] == 0
