"""All samplers together, as the exporter asks them, into a capture."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_codesign import semconv, settings
from vllm_codesign.exporter.run_file import Roles
from vllm_codesign.exporter.samplers.every import Samplers
from vllm_codesign.exporter.samplers.sampler import Sample
from vllm_codesign.exporter.serve import Exporter
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.ring import Ring
from vllm_codesign.recorder.session import Session, create
from vllm_codesign.store.capture import latest
from vllm_codesign.store.reader import connect

MS = 1_000_000


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = create(tmp_path, 2, {"started_unix_ns": time.time_ns()})
    made.write_json(
        "process-1.hooks.json",
        {"pid": os.getpid(), "roles": ["api_server", "engine_core"], "hooks": []},
    )
    return made


@pytest.fixture
def ring(session: Session) -> Ring:
    return Ring(session.folder / "process-1.ring", 1 << 16)


def test_a_capture_has_the_series(session: Session, ring: Ring, tmp_path: Path) -> None:
    session.enter_exporter()
    running = Exporter(session, settings.Settings(store=tmp_path / "store", metrics_port=0))
    running.collector.any_alive()
    running.poll()
    running.housekeep()
    now = time.monotonic_ns()
    ring.emit(Kind.LOOP_LAG, 0, now, now + 30 * MS)
    ring.emit(Kind.GIL, 0, now, now, 400_000, 1_000_000)
    ring.emit(Kind.WORKER_EXECUTE, 0, now, now + MS, 0, 0, 17)
    time.sleep(0.05)
    running.poll()
    running.housekeep()
    running.finish(complete=False)
    capture = latest(tmp_path / "store")
    with connect(capture) as connection:
        rows = connection.execute(
            "SELECT name, unit, attributes, value FROM series ORDER BY time_ns"
        ).fetchall()
    by_name = {name: (unit, dict(attributes), value) for name, unit, attributes, value in rows}
    pid = str(os.getpid())
    lag = {(dict(a)["codesign.statistic"], round(v, 6)) for n, _, a, v in rows if "lag" in n}
    assert lag == {("max", 0.03), ("mean", 0.03)}
    assert by_name["codesign.gil.contention"] == ("1", {"process.pid": pid}, 0.4)
    tokens = [v for name, _, _, v in rows if name == "codesign.worker.tokens"]
    assert sum(tokens) == 17
    unit, attributes, value = by_name["codesign.process.cpu"]
    assert (unit, attributes) == (
        "1",
        {"process.pid": pid, "codesign.process.role": "api_server+engine_core"},
    )
    assert 0 <= value < 64
    assert by_name["codesign.exporter.cpu_time"][0] == "s"
    known = {series.name: series.unit for series in semconv.SERIES}
    assert {name: unit for name, (unit, _, _) in by_name.items()}.items() <= known.items()
    run = capture.load()
    assert run.cpu is not None
    assert [(p.pid, p.role) for p in run.cpu.processes] == [(os.getpid(), "api_server+engine_core")]
    assert run.counters["orphan_records"] == 0, "these records belong to no request"


class Broken:
    def sample(self, now_ns: int) -> Iterator[Sample]:
        yield Sample(now_ns, semconv.HW_POWER, 1.0, {})
        raise OSError("the kernel says no")


def test_a_sampler_that_raises_is_dropped_and_said_once(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    samplers = Samplers(session)
    samplers._samplers.insert(0, Broken())
    for now in (1, 2, 3):
        names = [sample.series.name for sample in samplers.sample(now, [])]
        assert names.count("hw.power") == (now == 1)
        assert "codesign.exporter.cpu_time" in names
    assert [r.getMessage() for r in caplog.records] == ["codesign: no more samples of Broken"]


def test_while_the_level_is_off_the_kernel_is_not_asked(session: Session) -> None:
    samplers = Samplers(session)
    second = 1_000_000_000

    def sampled(at: int) -> bool:
        names = {sample.series.name for sample in samplers.sample(at * second, [os.getpid()])}
        return "codesign.process.cpu" in names

    assert [sampled(0), sampled(1)] == [False, True]
    session.level = 0
    assert [sampled(2), sampled(3)] == [False, False]
    session.level = 2
    assert [sampled(4), sampled(5)] == [False, True], "it counts from after the pause on"


def test_roles_follow_the_reports(session: Session) -> None:
    roles = Roles(session)
    assert roles.look() == {os.getpid(): "api_server+engine_core"}
    path = session.folder / "process-2.hooks.json"
    path.write_text("{")
    assert roles.look() == {os.getpid(): "api_server+engine_core"}
    path.write_text(json.dumps({"pid": 7, "roles": []}))
    os.utime(path, ns=(1, 1))
    assert roles.look()[7] == ""
    path.write_text(json.dumps({"pid": 7, "roles": ["worker"]}))
    assert roles.look()[7] == "worker"
    path.unlink()
    assert roles.look()[7] == "worker", "a process that is gone had its role"
