"""Wrappers with the very parameters of what they wrap, compiled for each original.

Passing `*args, **kwargs` on costs 150 ns a call and more with keywords: as much as half a
record, in every hook and also while dormant. `dataclasses` compiles its methods for the
same reason.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from vllm_codesign.hooks.table import Getter, Wrapper

_VARIADIC = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def exact_parameters(
    original: Callable[..., Any], getters: tuple[Getter, ...]
) -> tuple[str, ...] | None:
    """Names of the original's parameters; None where a wrapper cannot have the same.

    All must be plain ones, and each getter be named after the one that it fetches. What has
    a `__wrapped__` may tell positional from keyword arguments, so that handing on the one
    for the other could change it.
    """
    code = getattr(original, "__code__", None)
    if code is None or hasattr(original, "__wrapped__"):
        return None
    if code.co_kwonlyargcount or code.co_posonlyargcount or code.co_flags & _VARIADIC:
        return None
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount]
    if any(name.startswith("codesign_") for name in names):
        return None  # ours, in the source
    if any(getattr(get, "__name__", "") not in names for get in getters):
        return None
    return names


def compile_wrapper(
    source: str,
    original: Callable[..., Any],
    getters: tuple[Getter, ...],
    parameters: tuple[str, ...],
    **names: Any,
) -> Wrapper:
    """`def codesign_wrapper(PARAMETERS)` of the source, with defaults and name of the original.

    In the source PARAMETERS stands for the parameters and VALUES for those that the getters
    fetch; `names` are what it refers to, each with `codesign_` before it.
    """
    text = source.replace("PARAMETERS", ", ".join(parameters)).replace(
        "VALUES", ", ".join(get.__name__ for get in getters)
    )
    scope = {f"codesign_{name}": value for name, value in names.items()}
    scope["codesign_original"] = original
    exec(compile(text, f"<hook on {original.__qualname__}>", "exec"), scope)
    wrapper = scope["codesign_wrapper"]
    wrapper.__defaults__ = original.__defaults__  # type: ignore[attr-defined]
    return functools.wraps(original)(wrapper)
