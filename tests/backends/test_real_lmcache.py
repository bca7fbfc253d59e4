"""vLLM with LMCache, both sending to one Jaeger: LMCache's spans stand with their requests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.backends.programs import Jaeger
from tests.backends.through_jaeger import STORED_S, analyze, as_json, ids
from tests.support import kv
from tests.support.serving import serve, wait_until, wait_until_closed
from vllm_codesign.bench.lmcache_server import ENVIRONMENT, LMCacheServer
from vllm_codesign.store.capture import Capture

pytestmark = [
    pytest.mark.backends,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None or importlib.util.find_spec("lmcache") is None,
        reason="vLLM or LMCache is not installed: run `make setup`",
    ),
]


@dataclass(frozen=True)
class Run:
    jaeger: str
    capture: Capture
    trace_ids: list[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder: Path = tmp_path_factory.mktemp("lmcache")
    with Jaeger(folder) as jaeger:
        tracing = ("--enable-tracing", "--otlp-endpoint", jaeger.endpoint)
        log = folder / "lmcache.log"
        with LMCacheServer(2, engine_driven=True, log_path=log, flags=tracing) as cache:
            environment = {**ENVIRONMENT, "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.endpoint}
            with serve(folder, [*kv.FLAGS, *cache.vllm_flags], environment) as serving:
                requests = kv.prompts(serving.model)
                kv.one_by_one(serving.url, requests)
                wait_until_closed(serving.session)
                capture = serving.capture
        source = f"jaeger:{jaeger.url}"
        wanted = {int(request.trace_id, 16) for request in requests}
        wait_until(lambda: wanted <= ids(source), STORED_S, "all requests in Jaeger")
        yield Run(source, capture, [request.trace_id for request in requests])


def test_every_request_has_lmcaches_spans(run: Run) -> None:
    found = as_json("--from", run.jaeger)["lmcache"]
    count = len(run.trace_ids)
    kinds = {kind["name"]: (kind["spans"], kind["requests"]) for kind in found["kinds"]}
    assert kinds == {"request": (count, count), "mp.lookup_prefetch": (count, count)}
    assert found["unjoined"] == 0
    assert {of["trace_id"] for of in found["of"]} == set(run.trace_ids)
    # Asked while the request was being scheduled, by clocks of two processes of one host.
    assert all(of["after_ms"] > 0 for of in found["of"])


def test_the_rest_is_the_local_captures(run: Run) -> None:
    local, remote = as_json(str(run.capture.path)), as_json("--from", run.jaeger)
    assert local["lmcache"] is None
    transfers = {(each["what"], each["requests"]) for each in local["kv"]["transfers"]}
    assert transfers == {("kv.load", 4), ("kv.store", 3)}
    for key in ("scenarios", "kv", "finding"):
        assert remote[key] == local[key], key


def test_one_request_with_its_spans_in_the_terminal(run: Run) -> None:
    shown = analyze("--from", run.jaeger, "--trace", run.trace_ids[3]).stdout
    assert "LMCache's own spans" in shown
    assert shown.count("mp.lookup_prefetch") == 2  # by kind, and of this request
