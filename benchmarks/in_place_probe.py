"""A vLLM plugin that installs codesign's hooks with a probe in each: what they cost in place.

Every row of the hook tables is wrapped twice: a shim around our wrapper, and one around the
original within it. What a hook costs is what the outer one takes more than the inner one. A
coroutine is timed step by step, so that nobody's waiting counts. The product is not changed:
the shims have the originals' own parameters, so it wraps them as it wraps vLLM's.

What is measured at level 0 is kept apart: there the shims are as cold as they are otherwise and
see the same steps, but the hook does next to nothing.

Loaded by `in_place.py` in place of the `codesign` plugin, in every process of the server.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import threading
import time
import types
from collections.abc import Callable, Generator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from benchmarks.in_place_samples import Samples
from vllm_codesign import plugin
from vllm_codesign.hooks.exact import compile_wrapper, exact_parameters
from vllm_codesign.hooks.table import Getter, Hook, Wrapper
from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import LEVEL
from vllm_codesign.recorder.layout import Kind

FOLDER = "CODESIGN_BENCH_IN_PLACE"
"""Variable that names the folder to write to."""
BEGIN, END = "begin", "end"
"""Files in it: when the first appears samples are forgotten, when the second does, written."""

FUNCTION, COROUTINE, NONE = "function", "coroutine", "none"
"""Kinds of shims: what they measure around nothing differs."""

APPLICATION = "http.application"
REPEATED = tuple(f"record, {nth} in a row" for nth in ("1st", "2nd", "3rd", "4th"))

POLL_S = 0.1

clock = time.monotonic_ns


_INNER = """\
def codesign_wrapper(PARAMETERS):
    codesign_t0 = codesign_clock()
    try:
        return codesign_original(PARAMETERS)
    finally:
        codesign_took(codesign_clock() - codesign_t0)
"""


def around_function(
    make: Callable[..., Wrapper],
    original: Callable[..., Any],
    getters: tuple[Getter, ...],
    put: Callable[[int], None],
) -> Wrapper:
    """The wrapper of `original` that `make` makes, its own time put down at each call."""
    inside: list[int] = []
    parameters = exact_parameters(original, getters)
    inner: Wrapper
    if parameters is None:

        @functools.wraps(original)
        def passing(*args: Any, **kwargs: Any) -> Any:
            begun = clock()
            try:
                return original(*args, **kwargs)
            finally:
                inside.append(clock() - begun)

        inner = passing
    else:
        inner = compile_wrapper(
            _INNER, original, getters, parameters, clock=clock, took=inside.append
        )
        # Left there, the product would take it for what may tell positions from keywords.
        del vars(inner)["__wrapped__"]
    wrapper = make(inner, getters)

    @functools.wraps(original)
    def outer(*args: Any, **kwargs: Any) -> Any:
        begun = clock()
        try:
            return wrapper(*args, **kwargs)
        finally:
            took = clock() - begun
            put(took - (inside.pop() if inside else 0))

    return outer


_INSIDE: ContextVar[list[int] | None] = ContextVar("codesign_bench_inside", default=None)


@types.coroutine
def stepwise(coroutine: Any, spent: list[int]) -> Generator[Any, Any, Any]:
    """Run a coroutine; the time of its steps is added to `spent[0]`, that between them is not."""
    send, value = coroutine.send, None
    while True:
        begun = clock()
        try:
            awaited = send(value)
        except StopIteration as over:
            spent[0] += clock() - begun
            return over.value
        except BaseException:
            spent[0] += clock() - begun
            raise
        spent[0] += clock() - begun
        try:
            value = yield awaited
            send = coroutine.send
        except BaseException as error:  # noqa: BLE001  # handed on to where it belongs
            send, value = coroutine.throw, error


def around_coroutine(
    make: Callable[..., Wrapper],
    original: Callable[..., Any],
    getters: tuple[Getter, ...],
    put: Callable[[int], None],
) -> Wrapper:
    """The same for a coroutine function."""

    @functools.wraps(original)
    async def inner(*args: Any, **kwargs: Any) -> Any:
        spent = _INSIDE.get() or [0]
        return await stepwise(_called(original, args, kwargs, spent), spent)

    wrapper = make(inner, getters)

    @functools.wraps(original)
    async def outer(*args: Any, **kwargs: Any) -> Any:
        inside, spent = [0], [0]
        _INSIDE.set(inside)
        try:
            return await stepwise(_called(wrapper, args, kwargs, spent), spent)
        finally:
            put(spent[0] - inside[0])

    return outer


def _called(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], spent: list[int]
) -> Any:
    """The coroutine of a call; advice at the entry runs before its first step."""
    begun = clock()
    coroutine = function(*args, **kwargs)
    spent[0] += clock() - begun
    return coroutine


def around_application(
    make: Callable[..., Wrapper], original: Callable[..., Any], samples: Samples
) -> Wrapper:
    """The application's row, with the `receive` and `send` that it hands on."""
    puts = {name: samples.of(f"http.{name}", COROUTINE) for name in ("receive", "send")}
    repeated = [samples.of(name, NONE) for name in REPEATED]

    def pair(name: str, real: Callable[..., Any]) -> tuple[Any, Callable[[Any], Any]]:
        inside = [0]

        async def inner(*args: Any) -> Any:
            return await stepwise(_called(real, args, {}, inside), inside)

        def outer_of(ours: Any) -> Any:
            async def outer(*args: Any) -> Any:
                spent, before = [0], inside[0]
                try:
                    return await stepwise(_called(ours, args, {}, spent), spent)
                finally:
                    # Dormant, it is the shims alone: what they cost in place.
                    if ours is not inner or not LEVEL.byte[0]:
                        puts[name](spent[0] - (inside[0] - before))

            return outer

        return inner, outer_of

    outers: ContextVar[Any] = ContextVar("codesign_bench_outers")

    async def inside(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        if LEVEL.byte[0] and scope["type"] == "http":
            for put in repeated:
                begun = clock()
                active.emit(Kind.VOID, 0, begun)
                put(clock() - begun)
        receive_of, send_of = outers.get()
        return await original(self, scope, receive_of(receive), send_of(send))

    functools.update_wrapper(inside, original)
    whole = around_coroutine(make, inside, (), samples.of(APPLICATION, COROUTINE))

    @functools.wraps(original)
    async def application(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        (receive, receive_of), (send, send_of) = pair("receive", receive), pair("send", send)
        outers.set((receive_of, send_of))
        return await whole(self, scope, receive, send)

    return application


def probed(hook: Hook, samples: Samples) -> Hook:
    """The row with a probe in what it makes."""

    def make(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
        if hook.id == APPLICATION:
            return around_application(hook.make, original, samples)
        if inspect.iscoroutinefunction(original):
            put = samples.of(hook.id, COROUTINE)
            return around_coroutine(hook.make, original, getters, put)
        return around_function(hook.make, original, getters, samples.of(hook.id, FUNCTION))

    return dataclasses.replace(hook, make=make)


def _watch(samples: Samples, folder: Path) -> None:
    """Wait for the files, in a thread: the server's own end may be a kill, and a hook that
    looked at the level's changes would be timed with them."""
    begun = False
    while True:
        time.sleep(POLL_S)
        if not begun and (folder / BEGIN).exists():
            begun = True
            samples.clear()
        if (folder / END).exists():
            samples.write(folder / f"{os.getpid()}.json")
            return


def register() -> None:
    """What vLLM calls in each process."""
    if plugin.installer is not None:
        return
    samples = Samples()
    for table in plugin.TABLES:
        if table.TABLE != "session":
            vars(table)["HOOKS"] = tuple(probed(hook, samples) for hook in table.HOOKS)
    plugin.register()
    threading.Thread(
        target=_watch, args=(samples, Path(os.environ[FOLDER])), name="in-place", daemon=True
    ).start()
