"""Several API servers, tensor-parallel workers, data-parallel engines: one trace each, still."""

from __future__ import annotations

import asyncio
import importlib.util
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.checks import (
    check_coverage,
    check_endings,
    check_engine_spans,
    check_nesting,
)
from tests.support.mixed_load import Sent, make_requests, send_all
from tests.support.serving import (
    SHM,
    Traces,
    processes_under,
    read_all,
    serve,
    wait_until,
    wait_until_closed,
)
from vllm_codesign import semconv as S
from vllm_codesign.accounting import Work, fleet, timelines
from vllm_codesign.analysis.accounts import recorded
from vllm_codesign.recorder.session import MAX_TOTAL_BYTES
from vllm_codesign.store.capture import RunInfo, resolve
from vllm_codesign.store.reader import read_steps

pytestmark = [pytest.mark.full, pytest.mark.timeout(1500)]

MIXED_REQUESTS = 200
# One core for each rank: by default vLLM binds every rank to all of them.
_TWO_RANKS = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}


@dataclass(frozen=True)
class Topology:
    flags: tuple[str, ...]
    env: dict[str, str]
    roles: dict[str, int]
    """Recording processes by role."""


TOPOLOGIES = {
    "tensor parallel, two API servers": Topology(
        ("--tensor-parallel-size", "2", "--api-server-count", "2"),
        _TWO_RANKS,
        {"api_server": 2, "engine_core": 1, "worker": 2},
    ),
    "two data-parallel engines": Topology(
        ("--data-parallel-size", "2", "--api-server-count", "2"),
        _TWO_RANKS,
        {"api_server": 2, "engine_core": 2, "worker": 2},
    ),
}


@dataclass
class Run:
    """What a server of one topology left behind, and what was seen while it ran."""

    topology: Topology
    requests: list[Sent]
    traces: Traces
    sessions: list[Path]
    ring_bytes: int
    processes: set[int]
    open_requests: int
    during: RunInfo
    after: RunInfo
    gone_after_s: float
    capture_path: Path


@pytest.fixture(scope="module", params=TOPOLOGIES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    topology = TOPOLOGIES[request.param]
    foreign = set(SHM.glob("codesign-*"))
    folder = tmp_path_factory.mktemp("topology")
    with serve(folder, topology.flags, topology.env) as serving:
        session = serving.session
        requests = make_requests(serving.model, MIXED_REQUESTS)
        asyncio.run(send_all(serving.url, requests))
        serving.traces([r.trace_id for r in requests])
        wait_until_closed(session)
        wait_until(
            lambda: serving.capture.load().counters.get("requests", 0) >= len(requests),
            30,
            "run.json counts the requests",
        )
        during, open_requests = serving.capture.load(), session.open_requests
        processes = set(processes_under(serving.server.pid))
        ours = [f for f in set(SHM.glob("codesign-*")) - foreign if _of(f, processes)]
        ring_bytes = sum(path.stat().st_size for path in session.rings())
    gone_after_s = wait_until(
        lambda: not any(f.exists() for f in ours), 10, "the session's folder is removed"
    )
    capture = serving.capture
    return Run(
        topology,
        requests,
        read_all(capture),
        ours,
        ring_bytes,
        processes,
        open_requests,
        during,
        capture.load(),
        gone_after_s,
        capture.path,
    )


def _of(folder: Path, processes: set[int]) -> bool:
    return int(folder.name.split("-")[1]) in processes


def test_one_trace_each_with_the_right_outcome_and_parent(run: Run) -> None:
    check_endings(run.requests, run.traces)


def test_every_span_lies_inside_its_parent(run: Run) -> None:
    check_nesting(run.traces)


def test_one_set_of_engine_spans_per_choice(run: Run) -> None:
    check_engine_spans(run.requests, run.traces)


def test_the_children_cover_the_root(run: Run) -> None:
    p50, p5 = check_coverage(run.requests, run.traces)
    print(f"coverage: p50 {p50:.4f}, p5 {p5:.4f}")


def test_what_outlives_a_response_is_linked_and_closed(run: Run) -> None:
    for trace in run.traces.all:
        if trace.root.name == S.ENGINE_REQUEST.name:
            (link,) = trace.root.links
            linked = run.traces.one(f"{link.trace_id:032x}")
            assert trace.root.start_ns >= linked.root.end_ns


def test_every_rank_has_its_forward_in_every_step(run: Run) -> None:
    steps = list(read_steps(resolve(run.capture_path)))
    ranks = run.topology.roles["worker"] // run.topology.roles["engine_core"]
    assert len({step.engine for step in steps}) == run.topology.roles["engine_core"]
    assert len(steps) > 100
    for step in steps:
        forwards = [rank.forward for rank in step.ranks]
        assert len(forwards) == ranks, step
        assert all(forwards), step
        if ranks > 1:
            ends = [forward[1] for forward in forwards if forward]
            assert step.skew_ns == max(ends) - min(ends)
    skews = sorted(step.skew_ns for step in steps)
    print(f"{len(steps)} steps of {ranks} ranks; skew p50 {skews[len(skews) // 2] / 1e3:.0f} us")


def test_two_ranks_do_not_make_the_device_busy_twice(run: Run) -> None:
    steps = list(read_steps(resolve(run.capture_path)))
    work = Work()
    for trace in run.traces.all:
        work.take(trace)
    total = fleet(work, timelines(steps))
    assert len(total.engines) == run.topology.roles["engine_core"]
    for engine in total.engines:
        assert engine.window_ns == total.end_ns - total.start_ns
        mine = [step for step in steps if step.engine == engine.engine]
        longest = sum(
            max((d.end_ns - d.start_ns for d in r.device), default=0)
            for step in mine
            for r in step.ranks[:1]
        )
        both = sum(d.end_ns - d.start_ns for step in mine for r in step.ranks for d in r.device)
        print(
            f"engine {engine.engine}: busy {engine.busy_ns / 1e9:.3f} s of "
            f"{engine.window_ns / 1e9:.3f} s, ranks added up {both / 1e9:.3f} s"
        )
        assert longest <= engine.busy_ns <= both


def test_the_parts_sum_and_hardly_anything_is_unexplained(run: Run) -> None:
    shares = []
    for sent in run.requests:
        trace = run.traces.one(sent.trace_id)
        parts = recorded(trace) or {}
        assert sum(parts.values()) == trace.root.duration_ns
        if sent.expected is S.Outcome.COMPLETED:
            unexplained = parts.get("unattributed", 0) + parts.get("device.gap.other", 0)
            shares.append(unexplained / trace.root.duration_ns)
    p95 = sorted(shares)[int(0.95 * len(shares))]
    print(f"unexplained p95 {100 * p95:.2f} %, worst {100 * max(shares):.2f} %")
    assert p95 < 0.02


def test_nothing_is_left_open_or_lost(run: Run) -> None:
    assert run.open_requests == 0
    assert run.after.drops == {}
    for counter in ("hook_errors", "records_lost", "requests_lost", "rows_not_stored"):
        assert run.after.counters[counter] == 0, counter


def test_one_session_of_every_recording_process(run: Run) -> None:
    assert len(run.sessions) == 1, run.sessions
    roles = {row.process: (row.role, row.pid) for row in run.during.hooks}
    assert Counter(role for role, _ in roles.values()) == run.topology.roles
    assert {pid for _, pid in roles.values()} <= run.processes
    for row in run.during.hooks:
        assert row.status != "signature_changed", row


def test_every_api_server_and_every_engine_had_its_share(run: Run) -> None:
    """Otherwise this topology was not tested."""
    records = {int(p.stem): p.stat().st_size for p in _records(run)}
    roles = {row.pid: row.role for row in run.during.hooks}
    for pid, role in roles.items():
        assert records.get(pid, 0) > 64 * 50, (role, records)


def _records(run: Run) -> list[Path]:
    return sorted((run.capture_path / "records").glob("*.records"))


def test_the_rings_leave_room_in_shared_memory(run: Run) -> None:
    assert 0 < run.ring_bytes <= MAX_TOTAL_BYTES == 16 << 20


def test_the_end_of_the_server_ends_session_and_capture(run: Run) -> None:
    print(f"session gone {run.gone_after_s:.1f} s after the server")
    assert run.after.complete
    assert run.after.finished_ns
    assert not [folder for folder in run.sessions if folder.exists()]
    assert run.gone_after_s < 5
