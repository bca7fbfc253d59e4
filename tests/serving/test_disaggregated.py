"""Prefill and decode on two servers: what joins the halves of a request, and what each says."""

from __future__ import annotations

import importlib.util
import json
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from tests.support import disaggregated, kv
from tests.support.checks import check_nesting
from tests.support.faults import analyze
from tests.support.serving import (
    SEGMENT_S,
    Serving,
    Traces,
    read_all,
    serve,
    wait_for_traces,
    wait_until,
)
from vllm_codesign import semconv as S
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.store.capture import Capture, captures

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
    ),
]
WHOLE = ("--max-num-batched-tokens", "8192")
"""ExampleConnector stores what one step computes, and takes it for the whole prompt."""
STORED = 4992
"""Of 5,010 tokens the whole blocks of 128."""
DECODED = 8
PREFILL, DECODE = "kv_producer", "kv_consumer"


@dataclass
class Half:
    """One server's part of the requests."""

    capture: Capture
    traces: Traces
    loaded: float
    """Tokens that vLLM itself says a connector brought."""


@dataclass
class Run:
    """Requests with a `traceparent` (trace id, router's span id), then one without."""

    joined: list[tuple[str, str]]
    store: Path
    prefill: Half
    decode: Half

    def halves(self) -> list[tuple[RequestTrace, RequestTrace]]:
        return [
            (self.prefill.traces.one(trace_id), self.decode.traces.one(trace_id))
            for trace_id, _ in self.joined
        ]

    def alone(self) -> tuple[RequestTrace, RequestTrace]:
        """Of the request without `traceparent`."""
        known = {trace_id for trace_id, _ in self.joined}
        ours = [
            [t for t in half.traces.all if f"{t.trace_id:032x}" not in known]
            for half in (self.prefill, self.decode)
        ]
        ((first,), (second,)) = ours
        return first, second


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("disaggregated")
    module = folder / "connector"
    module.mkdir()
    (module / f"{disaggregated.MODULE}.py").write_text(disaggregated.SOURCE)
    (folder / "blocks").mkdir()
    environment = {
        "CODESIGN_STORE": str(folder / "store"),  # one for both, as two servers of a host have
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(module), os.environ.get("PYTHONPATH", "")))
        ),
    }
    with ExitStack() as stack:
        servers: dict[str, Serving] = {}
        for role in (PREFILL, DECODE):
            (folder / role).mkdir()
            config = disaggregated.config(role, str(folder / "blocks"))
            flags = ["--kv-transfer-config", json.dumps(config), *WHOLE]
            servers[role] = stack.enter_context(serve(folder / role, flags, environment))
        yield _run(folder / "store", servers)


def _run(store: Path, servers: dict[str, Serving]) -> Run:
    rng = random.Random(5)
    prefill, decode = servers[PREFILL], servers[DECODE]
    router = disaggregated.Router(prefill.url, decode.url)
    joined = []
    for number in range(4):
        headers = {}
        if number < 3:
            joined.append((f"{rng.getrandbits(128) | 1:032x}", f"{rng.getrandbits(64) | 1:016x}"))
            headers["traceparent"] = "00-{}-{}-01".format(*joined[-1])
        prompt = [rng.randrange(300, 30_000) for _ in range(kv.PROMPT_TOKENS)]
        body = {"model": prefill.model, "prompt": prompt, "max_tokens": DECODED}
        answer = router.complete(body | {"ignore_eos": True}, headers)
        assert answer["usage"]["completion_tokens"] == DECODED
    ids = [trace_id for trace_id, _ in joined]
    return Run(joined, store, _half(store, prefill, ids), _half(store, decode, ids))


def _half(store: Path, serving: Serving, ids: list[str]) -> Half:
    """What this server's capture holds, once the requests with these trace ids and one more
    are in it."""
    loaded = serving.metrics().get("vllm:external_prefix_cache_hits_total", 0.0)
    (capture,) = [c for c in captures(store) if c.load().pid == serving.server.pid]
    found = [wait_for_traces(lambda: capture, ids, 2 * SEGMENT_S)]

    def all_there() -> bool:
        found.append(read_all(capture))
        return len(found[-1].all) == len(ids) + 1

    wait_until(all_there, SEGMENT_S, f"{len(ids) + 1} requests in {capture.path}")
    return Half(capture, found[-1], loaded)


def test_one_traceparent_makes_one_trace(run: Run) -> None:
    for (first, second), (trace_id, span_id) in zip(run.halves(), run.joined, strict=True):
        for half in (first, second):
            assert f"{half.trace_id:032x}" == trace_id
            assert f"{half.root.parent_id:016x}" == span_id
        assert first.root.span_id != second.root.span_id
        # Not the root's end: a client may have the last byte before the server's send returns.
        token = _monotonic(first) + first.named(S.PREFILL.name)[0].end_ns - first.root.start_ns
        assert token < _monotonic(second)
        ended = _monotonic(first) + first.root.duration_ns
        print(f"from the end of one half to the other's start {_monotonic(second) - ended} ns")
        assert first.root.attributes[S.USAGE_OUTPUT_TOKENS.key] == 1
        assert second.root.attributes[S.USAGE_OUTPUT_TOKENS.key] == DECODED


def test_without_it_each_server_begins_its_own(run: Run) -> None:
    first, second = run.alone()
    assert first.trace_id != second.trace_id
    assert first.root.parent_id == second.root.parent_id == 0
    # Still, the decoding half says whose prompt it goes on with.
    assert _prefill(second)[S.KV_REMOTE_REQUEST.key] == _prefill(first)[S.REQUEST_ID.key]


def test_what_one_half_stores_the_other_loads(run: Run) -> None:
    pairs = [*run.halves(), run.alone()]
    for first, second in pairs:
        assert kv.tokens(first, S.KV_STORE.name) == STORED
        assert kv.tokens(second, S.KV_LOAD.name) == STORED
        assert first.named(S.KV_LOAD.name) == second.named(S.KV_STORE.name) == ()
        assert _prefill(first)[S.PREFILL_COMPUTED.key] == kv.PROMPT_TOKENS
        assert _prefill(second)[S.PREFILL_COMPUTED.key] == kv.PROMPT_TOKENS - STORED
        assert _prefill(second)[S.KV_TOKENS_HIT_EXTERNAL.key] == STORED
        print(
            *(
                f"{name}: {span.duration_ns / 1e6:.1f} ms"
                for half, name in ((first, S.KV_STORE.name), (second, S.KV_LOAD.name))
                for span in half.named(name)
            )
        )
    assert run.prefill.loaded == 0
    assert run.decode.loaded == len(pairs) * STORED


def test_the_decoding_half_names_the_other(run: Run) -> None:
    for first, second in run.halves():
        assert _prefill(second)[S.KV_REMOTE_REQUEST.key] == _prefill(first)[S.REQUEST_ID.key]
        assert _prefill(second)[S.KV_REMOTE_ENGINE.key] == f"engine-{PREFILL}"
        assert S.KV_REMOTE_REQUEST.key not in _prefill(first)
        assert S.KV_TRANSFER_ID.key not in _prefill(second)


def test_each_half_is_accounted_for(run: Run) -> None:
    for half in (run.prefill, run.decode):
        check_nesting(half.traces)
        for trace in half.traces.all:
            attributes = trace.root.attributes
            parts = [
                attributes[key]
                for part in S.Part
                if (key := f"codesign.part.{part.value}_ns") in attributes
            ]
            assert sum(ns for ns in parts if isinstance(ns, int)) == trace.root.duration_ns
        info = half.capture.load()
        for counter in ("hook_errors", "records_lost", "traces_failed", "orphan_records"):
            assert info.counters[counter] == 0, counter


def test_analyze_shows_each_half(run: Run) -> None:
    """Two runs in one store: each by the folder of its capture."""
    tokens = f"{(len(run.joined) + 1) * STORED:,}"
    for half, span in ((run.prefill, S.KV_STORE), (run.decode, S.KV_LOAD)):
        said = analyze(half.capture.path)
        rows = [line for line in said.splitlines() if disaggregated.CONNECTOR in line]
        (row,) = [line for line in rows if span.name in line]
        print(row)
        assert tokens in row


def test_one_query_finds_both_halves(run: Run) -> None:
    """As docs/kv.md has it."""
    trace_id, _ = run.joined[0]
    rows = duckdb.execute(
        "SELECT ResourceAttributes['service.instance.id'], SpanName, Duration "
        f"FROM read_parquet('{run.store}/*/traces/*.parquet') "
        "WHERE TraceId = ? AND SpanKind = 'Server' ORDER BY Timestamp",
        [trace_id],
    ).fetchall()
    print(*rows, sep="\n")
    assert [name for _, name, _ in rows] == ["POST /v1/completions"] * 2
    assert rows[0][0] != rows[1][0]


def _prefill(trace: RequestTrace) -> dict[str, object]:
    (span,) = trace.named(S.PREFILL.name)
    return dict(span.attributes)


def _monotonic(trace: RequestTrace) -> int:
    """When its root began, on the clock that both servers of the host read."""
    value = trace.root.attributes[S.MONOTONIC.key]
    assert isinstance(value, int)
    return value
