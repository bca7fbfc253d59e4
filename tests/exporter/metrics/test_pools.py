"""The renderer pools, from their jobs."""

from __future__ import annotations

from tests.exporter.records import rec, us
from tests.support.measured import measured
from vllm_codesign.exporter.metrics.pools import Pools
from vllm_codesign.recorder.layout import Job, Kind
from vllm_codesign.recorder.reader import Record
from vllm_codesign.semconv import metrics as M


def job(
    begins: float, ends: float, ahead: int, threads: int = 2, kind: Job = Job.TOKENIZE
) -> Record:
    return rec(Kind.JOB, 1, begins - 1, begins, a=us(ends), s=kind, c=threads << 16 | ahead)


def test_busy_threads_and_queue() -> None:
    made = measured()
    pools = Pools(made.board)
    assert made.exported().value(M.POOL_BUSY) == 0
    assert made.exported().by_labels(M.POOL_QUEUE) == [], "no job, no pool"
    pools.take(100, job(10, 30, ahead=3))
    pools.take(100, job(30, 35, ahead=7))
    pools.take(101, job(12, 13, ahead=0, threads=4))
    pools.look(frozenset())
    said = made.exported()
    assert said.value(M.POOL_BUSY) == 26e-6
    assert said.value(M.POOL_THREADS) == 6
    assert said.value(M.POOL_QUEUE) == 7
    pools.look(frozenset({101}))
    said = made.exported()
    assert (said.value(M.POOL_THREADS), said.value(M.POOL_QUEUE)) == (2, 0)


def test_where_templates_have_a_pool_of_their_own_the_tokenizers_counts() -> None:
    made = measured()
    pools = Pools(made.board)
    pools.take(100, job(1, 2, ahead=0, threads=8, kind=Job.TEMPLATE))
    pools.take(100, job(3, 4, ahead=0, threads=1))
    pools.take(100, job(5, 6, ahead=0, threads=8, kind=Job.TEMPLATE))
    pools.look(frozenset())
    assert made.exported().value(M.POOL_THREADS) == 1
