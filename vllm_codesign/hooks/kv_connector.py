"""The table of KV connectors.

A connector overrides its base's methods, so a wrap of the base is dead. Instead the class of
each one that is made is wrapped when its base is constructed: that also covers what is not
vLLM's own, and the children of `MultiConnector`, which no factory makes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vllm_codesign.hooks import kv_scheduler, kv_worker, session_start
from vllm_codesign.hooks.engine_state import ENGINE
from vllm_codesign.hooks.kv_state import CONNECTORS
from vllm_codesign.hooks.table import Getter, Hook, Wrapper
from vllm_codesign.hooks.wrap import constructed, swallow, timed
from vllm_codesign.recorder.active import LEVEL, clock
from vllm_codesign.recorder.layout import CONNECTOR_BITS

Advice = Callable[..., None]
Make = Callable[[Callable[..., Any], tuple[Getter, ...]], Wrapper]
TABLE = "kv_connector"


def _called(advice: Advice) -> Make:
    """Wrapper of a connector's method: `advice(t0, t1, result, connector, self, *values)`."""

    def make(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
        get_self, *others = getters
        level, open_, connectors = LEVEL, ENGINE.requests, CONNECTORS

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not level.byte[0] and not open_:
                return original(*args, **kwargs)
            number = connectors.numbers.get(id(get_self(args, kwargs)), 0)
            caller = connectors.caller()
            if not number or number == caller:  # its own base's method, called from within
                return original(*args, **kwargs)
            connectors.calls.append(number)
            t0 = clock()
            try:
                result = original(*args, **kwargs)
            finally:
                connectors.calls.pop()
            try:
                advice(
                    t0,
                    clock(),
                    result,
                    caller << CONNECTOR_BITS | number,
                    get_self(args, kwargs),
                    *[get(args, kwargs) for get in others],
                )
            except Exception:  # noqa: BLE001
                swallow()
            return result

        return wrapper

    return make


@dataclass(frozen=True, slots=True)
class Method:
    """A method of connectors: what is made of it, and the parameters that its advice reads."""

    name: str
    make: Make
    reads: tuple[str, ...] = ()


METHODS = (
    Method(
        "get_num_new_matched_tokens",
        _called(kv_scheduler.looked_up),
        ("request", "num_computed_tokens"),
    ),
    Method(
        "update_state_after_alloc",
        _called(kv_scheduler.allocated),
        ("request", "num_external_tokens"),
    ),
    Method("build_connector_meta", _called(kv_scheduler.planned), ("scheduler_output",)),
    Method("request_finished", _called(kv_scheduler.finished), ("request",)),
    Method("request_finished_all_groups", _called(kv_scheduler.finished), ("request",)),
    Method("start_load_kv", _called(kv_worker.load_started)),
    Method("wait_for_save", _called(kv_worker.save_awaited)),
    Method("wait_for_layer_load", kv_worker.make_layer("load_ns")),
    Method("save_kv_layer", kv_worker.make_layer("save_ns")),
    Method("get_finished", _called(kv_worker.polled)),
    Method("get_transfer_results", _called(kv_worker.polled)),
)


def _made(connector: Any) -> None:
    """A connector's base is constructed: its class is wrapped before anyone calls it."""
    CONNECTORS.add(connector)
    wrap_class(type(connector))


def wrap_class(cls: type) -> None:
    """Wrap the methods of a connector's class, as rows of this table; once."""
    installer = session_start.installer
    if installer is None or "_codesign_wrapped" in vars(cls):
        return
    cls._codesign_wrapped = True  # type: ignore[attr-defined]
    for _, hook in rows_of(cls):
        installer.wrap_method(TABLE, hook, cls)


def rows_of(cls: type) -> Iterator[tuple[Method, Hook]]:
    """The methods of a connector's class that are wrapped, and the row that each becomes."""
    base = next((c for c in cls.__mro__ if c.__name__ == _BASE_NAME), None)
    for method in METHODS:
        original = getattr(cls, method.name, None)
        # What it has from the base does nothing, or calls another method that is wrapped.
        if original is None or original is getattr(base, method.name, None):
            continue
        target = f"{cls.__module__}:{cls.__qualname__}.{method.name}"
        yield (
            method,
            Hook(
                f"{TABLE}.{cls.__name__}.{method.name}",
                (target,),
                method.make,
                ("self", *method.reads),
                required=False,
                foreign=not cls.__module__.startswith("vllm."),
            ),
        )


_BASE_NAME = "KVConnectorBase_V1"
_BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"
_SCHEDULER = "vllm.v1.core.sched.scheduler:Scheduler"

HOOKS: tuple[Hook, ...] = (
    Hook(
        "kv_connector.made",
        (f"{_BASE}:{_BASE_NAME}.__init__",),
        constructed(_made),
        ("self",),
        required=False,  # only where a connector is configured
    ),
    Hook(
        "kv_connector.invalid_blocks",
        (f"{_SCHEDULER}._update_requests_with_invalid_blocks",),
        timed(kv_scheduler.invalidated, while_open=ENGINE.requests),
        ("self",),
        required=False,
    ),
)
