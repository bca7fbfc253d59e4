"""Samplers that read records: workers, event loops, the GIL."""

import pytest

from tests.exporter.records import us
from vllm_codesign.exporter.samplers.gil import Gil
from vllm_codesign.exporter.samplers.loop_lag import LoopLag
from vllm_codesign.exporter.samplers.sampler import Sample
from vllm_codesign.exporter.samplers.workers import Workers
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record

MS = 1_000_000


def record(kind: Kind, t0: int, t1: int, **more: int) -> Record:
    values = {"s": 0, "c": 0, "a": 0, "b": 0, **more}
    return Record(0, kind, key=0, t0=t0, t1=t1, payload=b"", **values)


def told(samples: list[Sample]) -> list[tuple[str, float, dict[str, object]]]:
    return [(s.series.name, s.value, dict(s.attributes)) for s in samples]


def test_workers_are_busy_for_a_share_of_the_interval() -> None:
    workers = Workers(since_ns=0)
    workers.take(9, record(Kind.WORKER_EXECUTE, 0, 200 * MS, s=1, c=64))
    workers.take(9, record(Kind.WORKER_SAMPLE, 200 * MS, 250 * MS, s=1))
    workers.take(9, record(Kind.WORKER_EXECUTE, 400 * MS, 650 * MS, s=1, c=3))
    who = {"codesign.worker.rank": 1, "process.pid": 9}
    assert told(list(workers.sample(1000 * MS))) == [
        ("codesign.worker.busy", 0.5, who),
        ("codesign.worker.steps", 2.0, who),
        ("codesign.worker.tokens", 67.0, who),
    ]
    assert [s.value for s in workers.sample(3000 * MS)] == [0.0, 0.0, 0.0]
    workers.take(9, record(Kind.WORKER_EXECUTE, 0, 500 * MS, s=1, c=1))
    assert next(iter(workers.sample(4000 * MS))).value == 0.5, "of the second since the last"


def test_loop_lag_is_mean_and_maximum_of_its_ticks() -> None:
    loops = LoopLag()
    for pid, due, ran in ((7, 100, 103), (7, 200, 206), (8, 100, 100), (7, 300, 303)):
        loops.take(pid, record(Kind.LOOP_LAG, us(due * 1000), us(ran * 1000)))
    found = {
        (s.attributes["process.pid"], s.attributes["codesign.statistic"]): round(s.value, 9)
        for s in loops.sample(5)
    }
    assert found == {(7, "max"): 0.006, (7, "mean"): 0.004, (8, "max"): 0.0, (8, "mean"): 0.0}
    assert list(loops.sample(6)) == [], "nothing ticked"


def test_a_tick_before_its_time_is_not_late() -> None:
    loops = LoopLag()
    loops.take(7, record(Kind.LOOP_LAG, 200, 100))
    loops.take(7, record(Kind.LOOP_LAG, 200, 400))
    assert [s.value for s in loops.sample(5)] == pytest.approx([200e-9, 100e-9])


def test_contention_is_the_share_of_all_looks() -> None:
    gil = Gil()
    gil.take(7, record(Kind.GIL, 0, 1, a=250_000, b=1_000_000))
    gil.take(7, record(Kind.GIL, 1, 2, a=750_000, b=1_000_000))
    gil.take(8, record(Kind.GIL, 1, 2, a=0, b=0))
    assert told(list(gil.sample(5))) == [("codesign.gil.contention", 0.5, {"process.pid": 7})]
    assert list(gil.sample(6)) == []
