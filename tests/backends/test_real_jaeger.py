"""A real run of vLLM through a real Jaeger and back: the same table as the local capture's."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.backends.programs import Jaeger
from tests.backends.through_jaeger import STORED_S, analyze, as_json, ids
from tests.support.mixed_load import make_requests, send_all
from tests.support.placement import apart
from tests.support.serving import serve, wait_until, wait_until_closed
from vllm_codesign.analysis.sources import opened
from vllm_codesign.backends.query import Query
from vllm_codesign.model.step import Step
from vllm_codesign.semconv import Outcome
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.reader import read_steps, read_traces

pytestmark = [
    pytest.mark.backends,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
    ),
]

REQUESTS = 120


@dataclass(frozen=True)
class Run:
    """One run of vLLM, in both places; the server has ended."""

    jaeger: str
    capture: Capture
    completed: str
    """A trace id."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("jaeger")
    with Jaeger(folder) as jaeger:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.endpoint,
            "OTEL_METRICS_EXPORTER": "none",  # it takes traces alone
            "VLLM_ENABLE_RESPONSES_API_STORE": "1",
            # What spins has a core of its own, or the exporter leaves out steps.
            "VLLM_CPU_OMP_THREADS_BIND": "0",
        }
        with serve(folder, env=environment) as serving, apart(serving.session):
            requests = make_requests(serving.model, REQUESTS)
            asyncio.run(send_all(serving.url, requests))
            wait_until_closed(serving.session)
            source = f"jaeger:{jaeger.url}"
            wanted = {int(request.trace_id, 16) for request in requests}
            # While it runs: at its end what is still queued gets four seconds, no more.
            wait_until(lambda: wanted <= ids(source), 4 * STORED_S, "all requests in Jaeger")
            capture = serving.capture
        completed = next(r.trace_id for r in requests if r.expected == Outcome.COMPLETED)
        yield Run(source, capture, completed)


def test_the_same_table_to_the_nanosecond(run: Run) -> None:
    local = as_json(str(run.capture.path))
    remote = as_json("--from", run.jaeger)
    assert local["lossy"] == remote["lossy"] == []
    assert not any("accounted for otherwise" in note for note in local["notes"] + remote["notes"])
    scenario = local["scenarios"][0]
    assert sum(scenario["outcomes"].values()) >= REQUESTS
    assert scenario["accounting"]["fleet"]["busy_ns"] > 0
    for key in ("scenarios", "kv", "finding"):
        assert remote[key] == local[key], key


def test_every_span_and_every_step_is_the_same(run: Run) -> None:
    with opened(run.jaeger, Query()) as found:
        remote = {trace.root.span_id: trace for trace in read_traces(found.capture)}
        steps = sorted(read_steps(found.capture), key=_number)
    local = {trace.root.span_id: trace for trace in read_traces(run.capture)}
    assert remote == local
    assert steps == sorted(read_steps(run.capture), key=_number)


def _number(step: Step) -> tuple[int, int]:
    return step.engine, step.number


def test_one_trace_with_the_steps_that_served_it(run: Run) -> None:
    local = as_json("--from", str(run.capture.path), "--trace", run.completed)
    remote = as_json("--from", run.jaeger, "--trace", run.completed)
    assert remote["scenarios"][0]["outcomes"] == {"completed": 1}
    assert remote["scenarios"][0]["accounting"]["parts"]["device.decode"]["mean"] > 0
    assert remote["scenarios"] == local["scenarios"]


def test_a_limit_is_said(run: Run) -> None:
    done = analyze("--from", run.jaeger, "--limit", "5")
    assert done.stdout.count("5 traces (") == 1
    assert "the newest 5 requests alone: --limit was reached" in done.stdout


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--trace", "0" * 31 + "1"), r"no trace 0{31}1 in Jaeger at .*sampled away.*"),
        (("--since", "3d", "--until", "2d"), r"no request of 'vllm' in this time in Jaeger .*"),
        (("--service", "other"), r"Jaeger at .* knows no service 'other'; .*: vllm, vllm-engine.*"),
    ],
)
def test_what_is_not_there_is_one_line(run: Run, options: tuple[str, ...], line: str) -> None:
    done = analyze("--from", run.jaeger, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"codesign: {line}\n", done.stderr), done.stderr
