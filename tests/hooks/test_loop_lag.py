"""The event loop's timer: started by a request, dormant with the level, bound to no loop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
import weakref
from collections.abc import Iterator

import pytest

from tests.hooks.asgi import Client, application, scope_of, simple
from tests.hooks.conftest import Recording
from vllm_codesign.hooks import loop_lag
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record

MS = 1_000_000


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loop_lag, "PERIOD_S", 0.01)
    monkeypatch.setattr(loop_lag, "_PERIOD_NS", 10 * MS)
    monkeypatch.setattr(loop_lag, "_ticker", None)
    return


async def request(path: str = "/health") -> None:
    client = Client(b"{}")
    await application(simple)(scope_of(path), client.receive, client.send)


def ticks(recording: Recording) -> list[Record]:
    return [record for record in recording.take() if record.kind == Kind.LOOP_LAG]


def test_any_request_starts_it_and_it_goes_on(recording: Recording) -> None:
    async def serve() -> None:
        await asyncio.sleep(0.03)
        assert ticks(recording) == [], "no request, no timer"
        await request()
        await request("/v1/completions")
        await asyncio.sleep(0.2)

    asyncio.run(serve())
    found = ticks(recording)
    assert 3 <= len(found) <= 20, "one timer, however many requests"
    for record in found:
        assert 0 <= record.t1 - record.t0 < 5_000 * MS
    for before, after in itertools.pairwise(found):
        assert after.t0 == pytest.approx(before.t1 + 10 * MS, abs=5 * MS)


def test_a_loop_that_stands_still_is_late_once(recording: Recording) -> None:
    async def serve() -> None:
        await request()
        await asyncio.sleep(0.02)
        time.sleep(0.3)  # what is to be seen
        await asyncio.sleep(0.05)

    asyncio.run(serve())
    late = [(record.t1 - record.t0) / MS for record in ticks(recording)]
    assert 280 < max(late) < 3000
    assert sum(lag > 200 for lag in late) == 1, "no volley of ticks that were due meanwhile"


def test_it_ends_with_the_level_and_begins_with_a_request(recording: Recording) -> None:
    async def serve() -> None:
        await request()
        await asyncio.sleep(0.05)
        recording.session.level = 0
        await asyncio.sleep(0.05)
        assert loop_lag._ticker is None, "no timer of ours on a dormant server"
        await request()
        ticks(recording)
        await asyncio.sleep(0.05)
        assert ticks(recording) == []
        recording.session.level = 1
        await asyncio.sleep(0.03)
        assert ticks(recording) == []
        await request()
        await asyncio.sleep(0.1)
        assert ticks(recording) != []

    asyncio.run(serve())


def test_it_moves_to_another_loop_and_keeps_none_alive(recording: Recording) -> None:
    gone: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(request())
        loop.run_until_complete(asyncio.sleep(0.05))
        assert ticks(recording) != []
        loop.close()
        gone.append(weakref.ref(loop))
        del loop
    gc.collect()
    assert [each() for each in gone] == [None, None, None]
    assert ticks(recording) == []


def test_of_two_loops_the_last_one_asked_ticks(recording: Recording) -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    first.run_until_complete(request())
    second.run_until_complete(request())
    first.run_until_complete(asyncio.sleep(0.05))
    assert ticks(recording) == [], "the timer of the first loop finds that it is replaced"
    second.run_until_complete(asyncio.sleep(0.05))
    assert ticks(recording) != []
    first.close()
    second.close()


def test_an_error_of_ours_ends_the_timer_and_is_counted(
    recording: Recording, lenient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no ring")

    async def serve() -> list[dict[str, object]]:
        reported: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        await request()
        monkeypatch.setattr(loop_lag.active, "emit", fail)
        await asyncio.sleep(0.1)
        return reported

    assert asyncio.run(serve()) == []
    assert recording.ring.errors == 1
    assert loop_lag._ticker is None


def test_uvloop_as_vllm_uses_it(recording: Recording) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def serve() -> None:
        await request()
        await asyncio.sleep(0.2)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    assert len(ticks(recording)) >= 3
