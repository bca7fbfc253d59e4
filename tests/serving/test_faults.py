"""Kills, interrupts, a stopped exporter and failing hooks, each on a server of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.checks import check_nesting
from tests.support.faults import (
    Leftovers,
    analyze,
    assert_answered,
    assert_complete,
    exporter_back,
    exporters,
    kill,
    kill_group_of,
    loaded,
    outcomes,
    roles,
    said,
    send,
    sessions_of,
)
from tests.support.serving import SHM, read_all, serve, wait_until
from vllm_codesign import semconv as S
from vllm_codesign.recorder.process import alive
from vllm_codesign.recorder.session import sweep
from vllm_codesign.store.capture import captures

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]

KILLS = 3
ORPHANS_S = 16.0
"""Patience with an engine whose API server was killed: a segment closes meanwhile."""


def test_a_killed_exporter_costs_what_it_held_and_no_request(tmp_path: Path) -> None:
    with serve(tmp_path) as serving:
        session = serving.session
        away: list[float] = []
        with loaded(serving) as load:
            for _ in range(KILLS):
                time.sleep(12)
                before = session.exporter
                os.kill(before[0], signal.SIGKILL)
                away.append(exporter_back(session, before, 60))
            time.sleep(12)
            # Its standby too: a new interpreter has to be started.
            before = session.exporter
            for pid in exporters(session.folder):
                os.kill(pid, signal.SIGKILL)
            both_away = exporter_back(session, before, 60)
            time.sleep(2)
        print(f"exporter back after {away} s; after both were killed {both_away:.2f} s")
        assert_answered(load.calls)
        later = send(serving, 10)
        traces = serving.traces([call.trace_id for call in later])
        assert outcomes(later, traces) == {"completed": len(later)}
        left = Leftovers.of(serving)
        # As Ctrl-C does: to the whole group. The exporter is in none of it.
        os.killpg(serving.server.pid, signal.SIGINT)
        ended = left.wait_for_end(60)
        left.assert_gone(5)
    capture = assert_complete(serving.store, ended)
    traces = read_all(capture)
    check_nesting(traces)
    counts = outcomes(load.calls, traces)
    run = capture.load()
    print(f"{len(load.calls)} calls: {counts}; counters {run.counters}")
    assert set(counts) == {"completed", "missing"}
    # Either an exporter held them, or the ring overflowed until the next one was there.
    overflowed = sum(run.drops.get(kind, 0) for kind in ("root_begin", "root_parent", "root_end"))
    assert counts["missing"] <= run.counters["requests_lost"] + overflowed
    assert run.counters["requests_lost"] <= counts["missing"] + KILLS * 8
    assert run.counters["exporter_starts"] == KILLS + 2
    assert run.counters["requests"] >= counts["completed"]
    for trace in traces.all:
        if trace.root.name == S.ENGINE_REQUEST.name and not trace.root.links:
            assert trace.root.attributes[S.LOSSY.key] is True
    assert max(away) <= 5
    said_so = analyze(capture.path).splitlines()
    assert said_so[0].startswith("LOSSY CAPTURE")
    lost = f"LOSSY CAPTURE: {run.counters['requests_lost']:,} requests were lost whole"
    assert lost in said_so
    assert any(f"exporter was started {KILLS + 2} times" in line for line in said_so)


@pytest.mark.parametrize("whom", ["api_server", "engine_core", "worker", "all"])
def test_a_killed_server_leaves_its_records_and_nothing_else(tmp_path: Path, whom: str) -> None:
    with serve(tmp_path) as serving:
        left = Leftovers.of(serving)
        session = serving.session
        if whom == "all":
            victims = [pid for pid, _ in left.processes]
        else:
            victims = [roles(session)[whom]]
        with loaded(serving) as load, loaded(serving, clients=2, tokens=6000) as long:
            wait_until(lambda: sum(c.answered for c in load.calls) >= 8, 120, "eight answers")
            cut_off = list(long.calls)  # a short one may be whole in its client's socket already
            # What a client has whole its server may still have to note down.
            answered_before = time.time()
            time.sleep(1.0)
            killed = time.time()
            for pid in victims:
                kill(pid, signal.SIGKILL)
            load.send_no_more()
            long.send_no_more()
            deadline = time.monotonic() + ORPHANS_S
            while left.server_runs and time.monotonic() < deadline:
                time.sleep(0.05)
            for pid, started in left.processes:
                if alive(pid, started):
                    print(f"vLLM itself leaves process {pid} behind after a kill of {whom}")
                    # What went with the API server is told without waiting for the engine.
                    assert outcomes(cut_off, read_all(serving.capture)) == {"failed": 2}
                    kill(pid, signal.SIGKILL)
            ended = left.wait_for_end(10)
        print(f"all of vLLM ended {ended - killed:.1f} s after the kill")
        left.assert_gone(5)
    assert sessions_of(SHM, left.processes[0][0]) == []
    capture = assert_complete(serving.store, ended)
    traces = read_all(capture)
    check_nesting(traces)
    before = [c for c in load.calls if c.answered and c.ended_s < answered_before]
    print(f"before: {outcomes(before, traces)}; in flight: {outcomes(cut_off, traces)}")
    assert outcomes(before, traces) == {"completed": len(before)}
    assert outcomes(cut_off, traces) == {"failed": 2}
    run = capture.load()
    assert run.counters["requests_lost"] == run.counters["hook_errors"] == 0


def test_a_backlog_is_dropped_counted_and_got_over(tmp_path: Path) -> None:
    with serve(tmp_path, env={"CODESIGN_RING_BYTES": "65536"}) as serving:
        session = serving.session
        exporter = session.exporter
        with loaded(serving, clients=8, tokens=12) as load:
            time.sleep(3)
            os.kill(exporter[0], signal.SIGSTOP)
            time.sleep(10)
            os.kill(exporter[0], signal.SIGCONT)
            time.sleep(5)
        assert_answered(load.calls)
        later = send(serving, 10)
        traces = serving.traces([call.trace_id for call in later])
        for call in later:
            assert S.LOSSY.key not in traces.one(call.trace_id).root.attributes
        assert session.exporter == exporter, "it was not restarted"
        left = Leftovers.of(serving)
        os.kill(serving.server.pid, signal.SIGTERM)
        ended = left.wait_for_end(60)
        left.assert_gone(5)
    capture = assert_complete(serving.store, ended)
    traces = read_all(capture)
    check_nesting(traces)
    run = capture.load()
    counts = outcomes(load.calls, traces)
    lossy = [t for t in traces.all if t.root.attributes.get(S.LOSSY.key)]
    print(f"{len(load.calls)} calls: {counts}, {len(lossy)} lossy; {run.drops}; {run.counters}")
    assert run.counters["records_lost"] > 0
    # By kind they are counted on both sides of a race.
    assert sum(run.drops.values()) == pytest.approx(run.counters["records_lost"], rel=0.02)
    assert len(run.drops) > 3, "by kind"
    assert run.counters["hook_errors"] == 0
    assert lossy
    # A request that lacks spans says so; one that does not say so lacks none.
    wanted = {S.ENGINE_DISPATCH.name, S.ENGINE_QUEUE.name, S.PREFILL.name, S.DECODE.name}
    for call in load.calls:
        for trace in traces.by_id.get(call.trace_id, []):
            if S.LOSSY.key not in trace.root.attributes:
                assert wanted <= {span.name for span in trace.children}
                assert trace.root.attributes[S.OUTCOME.key] == "completed"
    assert analyze(capture.path).startswith("LOSSY CAPTURE")


BREAKER = """
def register():
    from vllm_codesign.recorder import active

    def broken(request_id):
        raise ZeroDivisionError(request_id)

    active.key_of = broken
"""


def test_a_hook_that_raises_is_counted_and_harms_no_request(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    info = plugins / "breaker-1.0.dist-info"
    info.mkdir(parents=True)
    (plugins / "breaker.py").write_text(BREAKER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: breaker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nbreaker = breaker:register\n")
    env = {"PYTHONPATH": str(plugins), "VLLM_PLUGINS": "codesign,breaker"}
    with serve(tmp_path, env=env) as serving:
        calls = send(serving, 10)
        traces = serving.traces([call.trace_id for call in calls])
        for call in calls:
            names = {span.name for span in traces.one(call.trace_id).children}
            assert S.HTTP_RECEIVE.name in names
            assert S.ENGINE_DISPATCH.name not in names
        # One in each of the API server's and EngineCore's hooks that need a key.
        wait_until(
            lambda: serving.capture.load().counters["hook_errors"] >= 3 * len(calls),
            15,
            "hook errors in run.json",
        )
        assert said(tmp_path / "server.log") == []


def test_two_servers_on_one_host_do_not_meet(tmp_path: Path) -> None:
    with serve(tmp_path / "a") as first:
        one = send(first, 5)
        with serve(tmp_path / "b") as second:
            other = send(second, 5)
            assert first.session.folder != second.session.folder
            assert first.session.exporter != second.session.exporter
            traces = second.traces([call.trace_id for call in other])
            assert not set(traces.by_id) & {call.trace_id for call in one}
            left = Leftovers.of(second)
        left.assert_gone(5)
        assert alive(*first.session.exporter)
        one += send(first, 5)
        traces = first.traces([call.trace_id for call in one])
        assert outcomes(one, traces) == {"completed": len(one)}
        assert not set(traces.by_id) & {call.trace_id for call in other}
        left = Leftovers.of(first)
    left.assert_gone(5)
    for serving in (first, second):
        (capture,) = captures(serving.store)
        run = capture.load()
        assert run.complete
        assert run.counters["records_lost"] == run.counters["requests_lost"] == 0


def test_what_all_kills_at_once_left_is_swept_by_the_next_server(tmp_path: Path) -> None:
    """Nobody is left who could: out of memory, or a container's end."""
    with serve(tmp_path) as serving:
        folder = serving.session.folder
        # The standby first, or it would be there again.
        for pid in [*exporters(folder), *(pid for pid, _ in kill_group_of(serving))]:
            kill(pid, signal.SIGKILL)
    assert folder.exists()
    assert sweep(SHM) >= 1  # what the next server does first
    assert not folder.exists()
    (capture,) = captures(serving.store)
    assert not capture.load().complete
