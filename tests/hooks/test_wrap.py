"""A wrapper never changes what vLLM returns or raises, whatever its advice does."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from vllm_codesign.hooks import engine_core, renderer, wrap
from vllm_codesign.hooks.engine_state import ENGINE
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.hooks.table import Wrapper
from vllm_codesign.hooks.wrap import constructed, entered, timed, timed_async
from vllm_codesign.recorder import active


class TheirError(Exception):
    pass


def f(x: Any, y: int = 2) -> Any:
    if isinstance(x, BaseException):
        raise x
    return [x, y]


async def af(x: Any, y: int = 2) -> Any:
    await asyncio.sleep(0)
    return f(x, y)


class Advice:
    """Remembers how it was called; may raise."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error = error

    def __call__(self, *args: Any) -> None:
        self.calls.append(args)
        if self.error:
            raise self.error


def wrapped(make: wrap.Make, function: Callable[..., Any], *reads: str) -> Wrapper:
    return make(function, getters_for(function, reads))


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says 100, 200, 300, …"""
    now = iter(range(100, 10_000, 100))
    monkeypatch.setattr(wrap, "clock", lambda: next(now))


@pytest.mark.usefixtures("recording", "ticking")
@pytest.mark.parametrize("reads", [(), ("x",), ("x", "y")])
def test_timed(reads: tuple[str, ...]) -> None:
    after, failed = Advice(), Advice()
    wrapper = wrapped(timed(after, failed), f, *reads)
    assert wrapper(5, y=6) == [5, 6]
    error = TheirError()
    with pytest.raises(TheirError) as caught:
        wrapper(error)
    assert caught.value is error
    values = {"x": 5, "y": 6}
    assert after.calls == [(100, 200, [5, 6], *(values[name] for name in reads))]
    values = {"x": error, "y": 2}
    assert failed.calls == [(300, 400, error, *(values[name] for name in reads))]


@pytest.mark.usefixtures("recording", "ticking")
async def test_timed_async() -> None:
    before, after, failed = Advice(), Advice(), Advice()
    wrapper = wrapped(timed_async(after, before, failed), af, "x")
    assert inspect.iscoroutinefunction(wrapper)
    assert await wrapper(5) == [5, 2]
    with pytest.raises(TheirError):
        await wrapper(error := TheirError())
    assert before.calls == [(100, 5), (300, error)]
    assert after.calls == [(100, 200, [5, 2], 5)]
    assert failed.calls == [(300, 400, error, error)]


@pytest.mark.usefixtures("recording")
async def test_a_cancelled_coroutine_counts_as_failed() -> None:
    after, failed = Advice(), Advice()
    started = asyncio.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(wrapped(timed_async(after, None, failed), forever)())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (len(after.calls), len(failed.calls)) == (0, 1)


@pytest.mark.usefixtures("recording", "ticking")
def test_entered_and_constructed() -> None:
    before, after = Advice(), Advice()
    assert wrapped(entered(before), f, "x")(5) == [5, 2]
    assert wrapped(constructed(after), f, "x")(5) == [5, 2]
    assert (before.calls, after.calls) == ([(100, 5)], [(5,)])


def test_dormant_wrappers_do_nothing() -> None:
    active.deactivate()
    advice = Advice()
    for make in (timed(advice, advice), timed_async(advice, advice, advice), entered(advice)):
        wrapper = wrapped(make, f, "x")
        if inspect.iscoroutinefunction(wrapper):
            wrapper = wrapped(make, af, "x")
            assert asyncio.run(wrapper(5)) == [5, 2]
        else:
            assert wrapper(5) == [5, 2]
            with pytest.raises(TheirError):
                wrapper(TheirError())
    assert advice.calls == []


def test_always_means_also_while_dormant() -> None:
    active.deactivate()
    before = Advice()
    wrapped(entered(before, always=True), f, "x")(5)
    assert [values for _, values in before.calls] == [5]


@pytest.mark.usefixtures("lenient")
class TestWhatGoesWrongInOurs:
    """Swallowed and counted; the value and the exception are vLLM's own."""

    async def test_in_every_wrapper(self, recording: Any) -> None:
        ours = Advice(ValueError("ours"))
        makes = [timed(ours, ours), entered(ours), constructed(ours)]
        for make in makes:
            wrapper = wrapped(make, f, "x")
            assert wrapper(5) == [5, 2]
            with pytest.raises(TheirError):
                wrapper(TheirError())
        two = wrapped(timed(ours, ours), f, "x", "y")
        assert two(5) == [5, 2]
        coroutine = wrapped(timed_async(ours, ours, ours), af, "x")
        assert await coroutine(5) == [5, 2]
        with pytest.raises(TheirError):
            await coroutine(TheirError())
        assert recording.ring.errors == len(ours.calls) == 10

    def test_before_there_is_a_ring(self) -> None:
        active.deactivate()
        counted = active.swallowed
        wrapped(entered(Advice(ValueError()), always=True), f, "x")(5)
        assert active.swallowed == counted + 1

    def test_in_the_hand_written_wrappers(
        self, recording: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Objects without any of the attributes that the advice reads."""
        pool = object()
        monkeypatch.setattr(ENGINE, "pool", id(pool))

        def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> str:
            return "outputs"

        def allocate_slots(
            request: Any, num_external_computed_tokens: int = 0, new_computed_blocks: Any = None
        ) -> str:
            return "blocks"

        def get_new_blocks(self: Any) -> str:
            return "blocks"

        def submit(self: Any, fn: Any) -> Any:
            return fn

        for make, function, reads, args in (
            (
                engine_core.make_update,
                update_from_output,
                ("self", "scheduler_output", "model_runner_output"),
                (object(), object(), object()),
            ),
            (
                engine_core.make_allocate,
                allocate_slots,
                ("request", "num_external_computed_tokens", "new_computed_blocks"),
                (object(),),
            ),
            (engine_core.make_get_blocks, get_new_blocks, ("self",), (pool,)),
            (renderer.make_submit, submit, (), (object(), "job")),
        ):
            wrapper = make(function, getters_for(function, reads))
            assert wrapper(*args) in ("outputs", "blocks", "job")
        assert recording.ring.errors == 4


def test_under_pytest_it_is_raised(recording: Any) -> None:
    wrapper = wrapped(timed(Advice(ValueError("ours"))), f, "x")
    with pytest.raises(ValueError, match="ours"):
        wrapper(5)
    assert recording.ring.errors == 1


def test_a_wrapper_looks_like_what_it_wraps() -> None:
    for make in (timed(Advice()), entered(Advice()), constructed(Advice())):
        wrapper = wrapped(make, f, "x")
        assert inspect.signature(wrapper) == inspect.signature(f)
        assert (wrapper.__name__, wrapper.__wrapped__) == ("f", f)
