"""Single stores of a connector that keeps a future for each, as LMCache's adapter does."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_codesign.hooks import kv_stores, kv_worker
from vllm_codesign.hooks.kv_worker import LAYERS
from vllm_codesign.hooks.worker import WORKER
from vllm_codesign.recorder.active import key_of
from vllm_codesign.recorder.layout import Kind


@pytest.fixture(autouse=True)
def fresh(recording: Any) -> Iterator[None]:
    parts = (LAYERS, WORKER)
    for part in parts:
        part.reset()
    kv_stores.STORES.clear()
    yield
    for part in parts:
        part.reset()
    kv_stores.STORES.clear()


class Connector:
    """Its futures are what `wait_for_save` leaves and `get_finished` takes away."""

    def __init__(self) -> None:
        self.worker_adapter = SimpleNamespace(store_futures={})
        self._connector_metadata = SimpleNamespace(requests=[])

    def save(self, at: int, *requests: str, dropped: bool = False) -> None:
        self._connector_metadata.requests = [
            SimpleNamespace(
                request_id=name,
                direction="STORE",
                op=SimpleNamespace(start=0, end=256, block_ids=[[1, 2]]),
            )
            for name in requests
        ]
        if not dropped:
            self.worker_adapter.store_futures.update(dict.fromkeys(requests, object()))
        kv_worker.save_awaited(at, at + 1, None, 1, self)

    def poll(self, at: int, *over: str) -> None:
        for name in over:
            del self.worker_adapter.store_futures[name]
        kv_worker.polled(0, at, (None, None), 1, self)


def told(recording: Any) -> list[tuple[int, int, int, int, int, int]]:
    return [
        (r.key, r.t0, r.t1, r.a >> 32, r.a & 0xFFFFFFFF, r.b)
        for r in recording.take()
        if r.kind == Kind.WORKER_KV_STORED
    ]


def test_each_ends_at_the_poll_that_finds_it_over(recording: Any) -> None:
    connector = Connector()
    connector.save(10, "a", "b")
    connector.poll(20)
    connector.poll(30, "a")
    connector.save(40, "a")
    connector.poll(50, "a", "b")
    assert sorted(told(recording)) == sorted(
        [
            (key_of("a"), 10, 30, 256, 1, 20),
            (key_of("b"), 10, 50, 256, 1, 30),
            (key_of("a"), 40, 50, 256, 1, 30),
        ]
    )
    assert kv_stores.STORES == {}


def test_one_whose_place_was_taken_ends_with_the_later(recording: Any) -> None:
    connector = Connector()
    connector.save(10, "a")
    connector.poll(20)
    connector.save(30, "a")
    connector.poll(40, "a")
    assert told(recording) == [(key_of("a"), 10, 40, 512, 2, 20)]


def test_what_was_dropped_is_not_waited_for(recording: Any) -> None:
    connector = Connector()
    connector.save(10, "a", dropped=True)
    connector.poll(20)
    assert told(recording) == []
    assert kv_stores.STORES == {}


def test_another_connectors_poll_ends_nothing(recording: Any) -> None:
    connector, other = Connector(), SimpleNamespace()
    connector.save(10, "a")
    kv_worker.save_awaited(11, 12, None, 1, other)
    kv_worker.polled(0, 20, (None, None), 1, other)
    assert told(recording) == []
    connector.poll(30, "a")
    assert len(told(recording)) == 1
