"""One server for all tests marked `vllm`: a start takes 100 s."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator

import pytest

from tests.support.mixed_load import Sent, make_requests, send_all
from tests.support.placement import apart
from tests.support.serving import Serving, Traces, serve

MIXED_REQUESTS = 200


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The shared server: one API server, default settings."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    # Background responses want vLLM's store of responses. The model gets one thread, on one
    # core: 0.19 would give it two, which wait for each other on the one core that is theirs.
    environment = {"VLLM_ENABLE_RESPONSES_API_STORE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0"}
    with (
        serve(tmp_path_factory.mktemp("serving"), env=environment) as running,
        apart(running.session),
    ):
        yield running


@pytest.fixture(scope="session")
def mixed(serving: Serving) -> tuple[list[Sent], Traces]:
    """The mixed load, sent, and the traces of it."""
    requests = make_requests(serving.model, MIXED_REQUESTS)
    asyncio.run(send_all(serving.url, requests))
    return requests, serving.traces([request.trace_id for request in requests])
