"""Wrappers: they time a call and hand what they saw to an advice function.

A wrapper returns exactly what the original returns and raises exactly what it raises. What
goes wrong in an advice is swallowed and counted; under pytest it is raised, so that tests
see it. A dormant wrapper (level 0) costs one look at the level byte.

Advice is called as `after(t0, t1, result, *values)`, `values` being the parameters that the
row reads, and `failed(t0, t1, exception, *values)`.

`while_open` is a container of what is being traced. As long as it holds anything, the
wrapper works although the level is 0: a request that began traced is traced to its end. Only
one on its way into EngineCore at that moment goes without the engine's spans.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sized
from typing import Any

from vllm_codesign.hooks.exact import compile_wrapper, exact_parameters
from vllm_codesign.hooks.table import Getter, Wrapper
from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import LEVEL, clock

Make = Callable[[Callable[..., Any], tuple[Getter, ...]], Wrapper]

_strict = "pytest" in sys.modules


def swallow() -> None:
    """Count the exception being handled; under pytest let it out."""
    active.count_error()
    if _strict:
        raise  # noqa: PLE0704  # called from an except block only


_TIMED = """\
def codesign_wrapper(PARAMETERS):
    if not codesign_level.byte[0] and not codesign_open:
        return codesign_original(PARAMETERS)
    codesign_t0 = codesign_clock()
    try:
        codesign_result = codesign_original(PARAMETERS)
    except BaseException as codesign_error:
        codesign_on_failure(codesign_t0, codesign_error, VALUES)
        raise
    try:
        codesign_after(codesign_t0, codesign_clock(), codesign_result, VALUES)
    except Exception:
        codesign_swallow()
    return codesign_result
"""
"""`timed` where the original's parameters are plain ones, as nearly all are."""


def timed(
    after: Callable[..., None],
    failed: Callable[..., None] | None = None,
    while_open: Sized = (),
) -> Make:
    """Wrapper of a plain function: stamps around the call, then the advice."""

    def make(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
        parameters = exact_parameters(original, getters)
        if parameters is not None:
            return compile_wrapper(
                _TIMED,
                original,
                getters,
                parameters,
                level=LEVEL,
                open=while_open,
                clock=clock,
                after=after,
                on_failure=_failure(failed),
                swallow=swallow,
            )
        level = LEVEL
        if len(getters) == 1:
            (get,) = getters

            @functools.wraps(original)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                if not level.byte[0] and not while_open:
                    return original(*args, **kwargs)
                t0 = clock()
                try:
                    result = original(*args, **kwargs)
                except BaseException as error:
                    if failed is not None:
                        _call(failed, t0, error, getters, args, kwargs)
                    raise
                try:
                    after(t0, clock(), result, get(args, kwargs))
                except Exception:  # noqa: BLE001  # ours must never reach vLLM
                    swallow()
                return result

        else:

            @functools.wraps(original)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                if not level.byte[0] and not while_open:
                    return original(*args, **kwargs)
                t0 = clock()
                try:
                    result = original(*args, **kwargs)
                except BaseException as error:
                    if failed is not None:
                        _call(failed, t0, error, getters, args, kwargs)
                    raise
                try:
                    after(t0, clock(), result, *[get(args, kwargs) for get in getters])
                except Exception:  # noqa: BLE001
                    swallow()
                return result

        return wrapper

    return make


def timed_async(
    after: Callable[..., None],
    before: Callable[..., None] | None = None,
    failed: Callable[..., None] | None = None,
    while_open: Sized = (),
) -> Make:
    """The same for a coroutine function; `before(t0, *values)` runs inside the coroutine."""

    def make(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
        @functools.wraps(original)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not LEVEL.byte[0] and not while_open:
                return await original(*args, **kwargs)
            t0 = clock()
            if before is not None:
                try:
                    before(t0, *[get(args, kwargs) for get in getters])
                except Exception:  # noqa: BLE001
                    swallow()
            try:
                result = await original(*args, **kwargs)
            except BaseException as error:
                if failed is not None:
                    _call(failed, t0, error, getters, args, kwargs)
                raise
            try:
                after(t0, clock(), result, *[get(args, kwargs) for get in getters])
            except Exception:  # noqa: BLE001
                swallow()
            return result

        return wrapper

    return make


def entered(before: Callable[..., None], always: bool = False, while_open: Sized = ()) -> Make:
    """`before(t0, *values)` at the entry, nothing afterwards.

    `always`: also while dormant, for what has to be known before a session exists.
    """

    def make(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if always or LEVEL.byte[0] or while_open:
                try:
                    before(clock(), *[get(args, kwargs) for get in getters])
                except Exception:  # noqa: BLE001
                    swallow()
            return original(*args, **kwargs)

        return wrapper

    return make


def constructed(after: Callable[..., None]) -> Make:
    """`after(*values)` when a constructor has returned, at any level."""

    def make(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            try:
                after(*[get(args, kwargs) for get in getters])
            except Exception:  # noqa: BLE001
                swallow()
            return result

        return wrapper

    return make


def _failure(failed: Callable[..., None] | None) -> Callable[..., None]:
    """What a compiled wrapper calls with t0, the exception and the values."""

    def on_failure(t0: int, error: BaseException, *values: Any) -> None:
        if failed is None:
            return
        try:
            failed(t0, clock(), error, *values)
        except Exception:  # noqa: BLE001
            swallow()

    return on_failure


def _call(
    advice: Callable[..., None],
    t0: int,
    error: BaseException,
    getters: tuple[Getter, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    try:
        advice(t0, clock(), error, *[get(args, kwargs) for get in getters])
    except Exception:  # noqa: BLE001
        swallow()
