"""The probe changes nothing of what it times, and counts a hook's own time alone."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks import in_place, in_place_probe
from benchmarks.in_place_probe import around_application, around_coroutine, around_function
from vllm_codesign.hooks.wrap import timed, timed_async
from vllm_codesign.recorder.active import LEVEL


class Clock:
    """Stands still but for what is told to take time."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def take(self, ns: int) -> None:
        self.now += ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(in_place_probe, "clock", made)
    before, LEVEL.byte = LEVEL.byte, b"\2"
    yield made
    LEVEL.byte = before


def test_a_function_s_own_time_is_the_advice_s(clock: Clock) -> None:
    samples: list[int] = []

    def original(self: Any, request: int, more: int = 5) -> tuple[int, int]:
        clock.take(1000)
        return request, more

    wrapper = around_function(timed(lambda *_: clock.take(30)), original, (), samples.append)
    assert wrapper(None, 7) == (7, 5)
    assert wrapper(None, 7, more=1) == (7, 1)
    assert samples == [30, 30]


def test_the_product_sees_the_original_s_parameters(clock: Clock) -> None:
    seen: list[Callable[..., Any]] = []

    def make(inner: Callable[..., Any], _getters: Any) -> Callable[..., Any]:
        seen.append(inner)
        return inner

    def original(self: Any, request: int, more: int = 5) -> int:
        return request

    around_function(make, original, (), lambda _: None)
    assert inspect.signature(seen[0]) == inspect.signature(original)
    assert not hasattr(seen[0], "__wrapped__")


def test_a_coroutine_s_waiting_is_nobody_s(clock: Clock) -> None:
    samples: list[int] = []

    async def original(self: Any, value: int) -> int:
        clock.take(1000)
        await asyncio.sleep(0)
        clock.take(500)
        return value

    make = timed_async(lambda *_: clock.take(30), before=lambda *_: clock.take(4))
    wrapper = around_coroutine(make, original, (), samples.append)

    async def other() -> None:
        clock.take(77_000)  # runs while the first one waits

    async def both() -> Any:
        return (await asyncio.gather(wrapper(None, 3), other()))[0]

    assert asyncio.run(both()) == 3
    assert samples == [34]


def test_exceptions_come_out_and_go_in(clock: Clock) -> None:
    samples: list[int] = []

    async def original(self: Any) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            clock.take(5)
            raise KeyError("mine") from None

    wrapper = around_coroutine(timed_async(lambda *_: None), original, (), samples.append)

    async def cancel() -> None:
        task = asyncio.create_task(wrapper(None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(KeyError, match="mine"):
            await task

    asyncio.run(cancel())
    assert samples == [0]


def test_send_and_receive_are_rows_of_their_own(clock: Clock) -> None:
    samples = in_place_probe.Samples()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        clock.take(1000)
        sent.append(message)

    async def receive() -> str:
        clock.take(2000)
        return "body"

    async def application(self: Any, scope: Any, receive: Any, send: Any) -> str:
        await send(await receive())
        clock.take(100_000)
        return "done"

    def make(original: Callable[..., Any], _getters: Any) -> Callable[..., Any]:
        async def wrapper(self: Any, scope: Any, receive: Any, send: Any) -> Any:
            async def our_send(message: Any) -> None:
                await send(message)
                clock.take(11)

            async def our_receive() -> Any:
                clock.take(7)
                return await receive()

            clock.take(300)
            return await original(self, scope, our_receive, our_send)

        return wrapper

    run = around_application(make, application, samples)
    assert asyncio.run(run(None, {"type": "http"}, receive, send)) == "done"
    assert sent == ["body"]
    found = {row: list(kept) for row, kept in samples.rows.items()}
    assert found["http.send"] == [11]
    assert found["http.receive"] == [7]
    assert found["http.application"] == [300]
    assert all(len(found[row]) == 1 for row in in_place_probe.REPEATED)


def test_no_sample_while_dormant(clock: Clock) -> None:
    samples = in_place_probe.Samples()
    put = samples.of("row", in_place_probe.FUNCTION)
    LEVEL.byte = b"\0"
    put(5)
    LEVEL.byte = b"\1"
    put(6)
    assert list(samples.rows["row"]) == [6]


def test_a_cost_leaves_out_preemptions_and_says_how_many() -> None:
    cost = in_place.cost_of("row", [*range(1000, 1100), 80_000, 90_000], 100.0)
    assert (cost.calls, cost.left_out) == (102, 2)
    assert (cost.p10_ns, cost.median_ns, cost.p90_ns) == (910, 950, 990)
    assert cost.mean_ns == pytest.approx(949.5)
    with pytest.raises(ValueError, match="no sample of row"):
        in_place.cost_of("row", [80_000], 0.0)


def test_the_plugin_is_found_in_its_folder(tmp_path: Any) -> None:
    from importlib.metadata import distributions

    environment = in_place.install_plugin(tmp_path)
    assert environment["PYTHONPATH"].split(":")[0] == str(tmp_path)
    (found,) = distributions(path=[str(tmp_path)])
    (point,) = found.entry_points
    assert point.load() is in_place_probe.register
