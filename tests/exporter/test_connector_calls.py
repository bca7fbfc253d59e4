"""Which calls of connectors are kept: those that a request in the making names."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.exporter.records import (
    api_records,
    assembled,
    builder,
    engine_records,
    feed,
    finished,
    rec,
    us,
)
from vllm_codesign import semconv as S
from vllm_codesign.exporter import connector_calls
from vllm_codesign.exporter.assemble import Assembler
from vllm_codesign.exporter.connector_calls import ConnectorCalls
from vllm_codesign.recorder.layout import Kind, KVCall
from vllm_codesign.recorder.reader import Record

WORKER = 300
LATER = us(60_000_000)


def step(number: int, engine: int = 200) -> int:
    return engine << 40 | number


def call(key: int, t0: float, t1: float, which: KVCall = KVCall.START_LOAD) -> Record:
    return rec(Kind.WORKER_KV, key, t0, t1, c=which)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector_calls, "UNNAMED", 10)


def test_calls_that_nobody_names_are_few() -> None:
    kept = ConnectorCalls()
    for number in range(1, 100):
        kept.add(step(number), call(step(number), number, number + 1))
    kept.loads(1, step(99))
    assert kept.of == {step(99): {KVCall.START_LOAD: (us(99), us(100))}}
    kept.loads(1, step(89))
    assert (kept.of[step(89)], kept.missed) == ({}, 1)


def test_one_engine_does_not_push_out_anothers() -> None:
    kept = ConnectorCalls()
    kept.add(step(1), call(step(1), 5, 6))
    for number in range(1, 100):
        kept.add(step(number, 201), call(step(number, 201), number, number + 1))
    kept.loads(1, step(1))
    assert kept.of[step(1)] == {KVCall.START_LOAD: (us(5), us(6))}
    assert kept.missed == 0


def test_a_name_may_come_before_its_calls() -> None:
    kept = ConnectorCalls()
    kept.loads(1, step(1))
    kept.add(step(1), call(step(1), 5, 6))
    kept.add(step(1), call(step(1), 4, 5))
    assert kept.of == {step(1): {KVCall.START_LOAD: (us(4), us(6))}}
    assert kept.missed == 0


def test_a_step_is_kept_until_the_last_that_names_it_is_told() -> None:
    kept = ConnectorCalls()
    kept.add(step(1), call(step(1), 5, 6))
    kept.loads(1, step(1))
    kept.stores(2, step(1), 3)
    kept.release(1)
    assert step(1) in kept.of
    kept.stores(2, step(7), 3)
    assert list(kept.of) == [step(7)], "of its stores the last one counts"
    kept.stores(2, step(7), 4)
    kept.release(2)
    kept.release(2)
    assert kept.of == {}


LOADED = (
    rec(Kind.KV_LOAD, 11, 3_100, 3_400, a=48 << 32 | 3, b=step(1), s=1),
    call(step(1), 3_600, 3_700),
)
STORED = (
    rec(Kind.KV_ORDERED, 11, 3_350, b=step(1), s=1),
    call(step(1), 3_900, 4_000, KVCall.WAIT_FOR_SAVE),
)


@pytest.mark.parametrize("order", [iter, reversed], ids=["engine first", "worker first"])
@pytest.mark.parametrize(
    ("records", "name", "end"), [(LOADED, "kv.load", 3_700), (STORED, "kv.store", 4_000)]
)
def test_a_long_request_has_its_transfers(
    records: tuple[Record, Record],
    name: str,
    end: int,
    order: Callable[[tuple[Record, Record]], list[Record]],
) -> None:
    """Loaded or stored in its first step, and many steps followed."""
    made = assembled(api_records()[:-3], engine_records()[:-1])
    for record in order(records):
        made.take(WORKER, record)
    for number in range(2, 100):
        made.take(WORKER, call(step(number), 3_600 + number, 3_600 + number))
    stored = rec(Kind.KV_STORE, 11, 3_350, 3_360, a=48 << 32 | 3, b=step(1), s=1)
    feed(made, api_records()[-3:], [*([stored] if name == "kv.store" else []), finished()])
    building = builder(made)
    building.calls = made.steps.calls.of
    (root,) = made.complete(LATER)
    (found, *_) = building.request(root, LATER)
    (span,) = found.named(name)
    assert span.end_ns - found.root.start_ns + us(0.001) == us(end)
    assert span.attributes[S.KV_TOKENS.key] == 48
    assert list(made.complete(LATER)) == []
    assert made.steps.calls.of == {}, "it is told"


def test_a_store_of_a_request_that_is_not_known_is_not_kept() -> None:
    made = Assembler()
    made.take(200, rec(Kind.KV_ORDERED, 11, 3_350, b=step(1), s=1))
    assert (made.engines, made.steps.calls.of) == ({}, {})
