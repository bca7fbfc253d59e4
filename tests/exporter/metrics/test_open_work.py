"""Requests in the making, as work in the house: what their traces will say, as far as it goes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.exporter.records import (
    API,
    ENGINE,
    api_records,
    builder,
    engine_records,
    us,
)
from vllm_codesign.accounting import Work
from vllm_codesign.exporter.assemble import Assembler
from vllm_codesign.exporter.metrics.open_work import NEVER_NS, OpenWork
from vllm_codesign.model.step import Stretch
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record

LATER = us(1_000_000)


def known_at(at: float) -> Assembler:
    """What is recorded by then, taking a record for written at its latest stamp."""
    assembler = Assembler()
    for pid, records in ((API, api_records()), (ENGINE, engine_records())):
        for record in records:
            if written(record) <= us(at):
                assembler.take(pid, record)
    return assembler


def written(record: Record) -> int:
    if record.kind in (Kind.TEXT, Kind.ROOT_PARENT, Kind.ROOT_PARAMS):
        return us(1)
    if record.kind == Kind.ITL:
        return us(8_500)
    if record.kind in (Kind.ENG_QUEUED, Kind.ENG_FINISHED):
        return record.t0
    return max(record.t0, record.t1)


def work_at(at: float) -> Work:
    assembler = known_at(at)
    return OpenWork(assembler, builder(assembler)).before(LATER)


def whole() -> Work:
    assembler = known_at(20_000)
    (root,) = assembler.complete(us(9_000) + 10_000_000_000)
    work = Work()
    for trace in builder(assembler).request(root, us(30_000)):
        work.take(trace)
    return work


def covered(stretches: list[Stretch], at: int) -> bool:
    return any(start <= at < end for start, end in stretches)


WHERE: list[Callable[[Work], list[Stretch]]] = [
    lambda w: w.house,
    lambda w: w.frontend,
    lambda w: w.dispatch,
    lambda w: w.engines.get(ENGINE, []),
]


@pytest.mark.parametrize("known", [500, 1_150, 1_600, 2_900, 3_500, 5_000, 8_000, 8_700])
def test_up_to_then_it_says_what_the_trace_will_say(known: float) -> None:
    now, later = work_at(known), whole()
    for at in range(0, int(known), 10):
        for kind in WHERE:
            told, true = covered(kind(now), us(at)), covered(kind(later), us(at))
            assert told == true, (at, kind(now), kind(later))


def test_what_has_not_ended_goes_on() -> None:
    work = work_at(4_000)
    (house,) = work.house
    assert house[1] >= NEVER_NS
    assert max(end for _, end in work.engines[ENGINE]) >= NEVER_NS


def test_what_begins_later_is_not_asked_for() -> None:
    assembler = known_at(4_000)
    assert OpenWork(assembler, builder(assembler)).before(us(0.001)).house == []


def test_it_is_built_again_only_where_records_came(monkeypatch: pytest.MonkeyPatch) -> None:
    assembler = known_at(4_000)
    made = builder(assembler)
    built = []
    request = type(made).request
    monkeypatch.setattr(type(made), "request", lambda *a, **k: built.append(1) or request(*a, **k))
    work = OpenWork(assembler, made)
    first = work.before(LATER)
    assert work.before(LATER) == first
    assert len(built) == 1
    for record in api_records():
        if record.kind == Kind.REQ_OUT:
            assembler.take(API, record)
    work.before(LATER)
    assert len(built) == 2


def test_an_engine_request_without_http_counts_as_well() -> None:
    assembler = Assembler()
    for record in engine_records()[:4]:
        assembler.take(ENGINE, record)
    (req,) = (r for r in api_records() if r.kind == Kind.REQ)
    assembler.take(API, req._replace(a=0))
    work = OpenWork(assembler, builder(assembler)).before(LATER)
    assert len(work.house) == 1
    assert covered(work.engines[ENGINE], us(100_000))
