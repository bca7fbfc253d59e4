"""The probe changes nothing of what it times, and counts a hook's own time alone."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import in_place, in_place_costs, in_place_probe, in_place_samples
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
    samples = in_place_samples.Samples()
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


def test_dormant_the_shims_alone_are_timed_around_send(clock: Clock) -> None:
    samples = in_place_samples.Samples()
    LEVEL.byte = b"\0"

    async def send(message: Any) -> None:
        clock.take(1000)

    async def application(self: Any, scope: Any, receive: Any, send: Any) -> None:
        await send("message")

    run = around_application(lambda original, _: original, application, samples)
    asyncio.run(run(None, {"type": "http"}, send, send))
    assert list(samples.dormant["http.send"]) == [0]
    assert not samples.rows["http.send"]
    LEVEL.byte = b"\1"  # a route that is not traced: no hook of ours, no sample
    asyncio.run(run(None, {"type": "http"}, send, send))
    assert list(samples.dormant["http.send"]) == [0]
    assert not samples.rows["http.send"]


@pytest.mark.parametrize("plain", [True, False])
def test_a_function_s_exception_comes_out_and_is_timed(clock: Clock, plain: bool) -> None:
    samples: list[int] = []

    def fixed(self: Any, value: int) -> int:
        clock.take(1000)
        raise KeyError(value)

    def variadic(*args: Any, **kwargs: Any) -> int:
        clock.take(1000)
        raise KeyError(args[1])

    make = timed(lambda *_: None, failed=lambda *_: clock.take(9))
    wrapper = around_function(make, fixed if plain else variadic, (), samples.append)
    with pytest.raises(KeyError, match="7"):
        wrapper(None, 7)
    assert samples == [9]


def test_a_hook_inside_another_is_not_the_outer_one_s(clock: Clock) -> None:
    outside: list[int] = []
    within: list[int] = []

    def leaf(self: Any) -> None:
        clock.take(1000)

    hooked = around_function(timed(lambda *_: clock.take(20)), leaf, (), within.append)

    def root(self: Any) -> None:
        hooked(self)

    around_function(timed(lambda *_: clock.take(3)), root, (), outside.append)(None)
    assert (outside, within) == ([3], [20])


def test_what_is_taken_while_dormant_is_kept_apart(clock: Clock, tmp_path: Path) -> None:
    samples = in_place_samples.Samples()
    put = samples.of("row", in_place_probe.FUNCTION)
    LEVEL.byte = b"\0"
    put(5)
    LEVEL.byte = b"\1"
    put(6)
    samples.write(tmp_path / "1.json")
    assert json.loads((tmp_path / "1.json").read_text()) == {
        "row": {"shim": "function", "calls": 1, "ns": [6], "dormant_ns": [5]}
    }
    samples.clear()
    assert not samples.rows["row"]
    assert not samples.dormant["row"]
    assert not samples.calls["row"]


def test_calls_are_counted_beyond_what_is_kept(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_place_samples, "KEPT", 2)
    samples = in_place_samples.Samples()
    put = samples.of("row", in_place_probe.FUNCTION)
    for ns in (1, 2, 3):
        put(ns)
    assert list(samples.rows["row"]) == [2, 3]
    assert samples.calls["row"] == 3


def test_a_mean_leaves_out_preemptions_and_quantiles_do_not() -> None:
    cost = in_place_costs.cost_of("row", [*range(1000, 1098), 80_000, 90_000], 100.0)
    assert (cost.calls, cost.left_out, cost.truncated) == (100, 2, False)
    assert (cost.p10_ns, cost.median_ns, cost.p90_ns) == (910, 950, 990)
    assert cost.mean_ns == pytest.approx(948.5)
    assert cost.all_mean_ns == pytest.approx((98 * 948.5 + 79_900 + 89_900) / 100)
    assert in_place_costs.cost_of("row", [*range(97), 80_000, 80_000, 80_000], 0.0).truncated
    with pytest.raises(ValueError, match="no sample of row"):
        in_place_costs.cost_of("row", [80_000], 0.0)


def test_the_shims_cancel_in_what_is_more_than_dormant() -> None:
    for shim_ns in (0.0, 250.0):
        cost = in_place_costs.cost_of("row", [5000, 7000], shim_ns, [1000, 60_000], calls=8)
        assert cost.more_ns == 5000
        assert cost.all_more_ns == 6000 - 30_500
        assert cost.dormant_left_out == 0.5
        assert in_place_costs.totals([cost], 4)["more_us"] == 10
    without = in_place_costs.cost_of("row", [5000], 250.0)
    assert without.dormant_ns is None
    assert without.more_ns == 4750


def test_a_total_holds_no_record_of_the_benchmark_s_own() -> None:
    ours = in_place_costs.cost_of("row", [1000, 70_000], 0.0)
    own = in_place_costs.cost_of(in_place_probe.REPEATED[0], [9000], 0.0)
    assert in_place_costs.totals([ours, own], 2) == {
        "us": 1,
        "more_us": 1,
        "all_us": 35.5,
        "all_more_us": 35.5,
    }


def test_the_plugin_is_found_in_its_folder(tmp_path: Any) -> None:
    from importlib.metadata import distributions

    environment = in_place.install_plugin(tmp_path)
    assert environment["PYTHONPATH"].split(":")[0] == str(tmp_path)
    (found,) = distributions(path=[str(tmp_path)])
    (point,) = found.entry_points
    assert point.load() is in_place_probe.register
