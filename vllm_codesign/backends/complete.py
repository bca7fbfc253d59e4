"""What every network back end does around its searches: one trace, or a window, and its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vllm_codesign import semconv
from vllm_codesign.backends import slices
from vllm_codesign.backends.collected import Collected
from vllm_codesign.backends.query import Query
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.semconv import Service

STEPS_BEFORE_NS = 5_000_000_000
"""A step that holds up a request may have begun before it."""


class Searchable(Protocol):
    """A back end that can be searched by service, span name and time."""

    @property
    def name(self) -> str:
        """With its address, for errors."""
        ...

    @property
    def most(self) -> int:
        """Traces in one answer to a search."""
        ...

    @property
    def least_ns(self) -> int:
        """The shortest slice of time that can be asked for."""
        ...

    def trace(self, trace_id: int, into: Collected) -> bool:
        """Take one trace; False where the back end does not have it."""
        ...

    def find(
        self, service: str, span: str | None, since_ns: int, until_ns: int, into: Collected
    ) -> int:
        """Take the traces with such a span; how many traces the search handed out."""
        ...

    def services(self) -> list[str]:
        """The names it knows; empty where it cannot say."""
        ...


def read(backend: Searchable, query: Query, into: Collected) -> None:
    """Take the requests that `query` asks for, the steps around them and LMCache's spans."""
    if query.trace_id is not None:
        _one(backend, query.trace_id, into)
    else:
        _window(backend, query.service or semconv.DEFAULT_SERVICE_NAME, query, into)
    since, until = into.first_ns - STEPS_BEFORE_NS, into.last_ns
    for service in sorted(into.services):
        engine = service + Service.ENGINE
        if not _search(backend, engine, semconv.STEP.name, since, until, into):
            into.note(f"{backend.name} did not hand over every step: a search of it is limited")
    for name in _lmcache_services(backend, query):
        _search(backend, name, "request", since, until, into)


def _one(backend: Searchable, trace_id: int, into: Collected) -> None:
    shown = f"trace {trace_id:032x}"
    if not backend.trace(trace_id, into):
        raise CodesignError(
            f"no {shown} in {backend.name}: it was sampled away, is too old, or has not arrived; "
            "a new one takes some 10 s"
        )
    if into.roots:
        return
    if into.of_steps:
        raise CodesignError(f"{shown} is of an engine step: name one of a request it is linked to")
    if into.spans:
        raise CodesignError(
            f"{shown} is still arriving or was cut: {backend.name} has {into.spans} of its spans "
            "and not the request's own; ask again in 10 s"
        )
    others = ", ".join(sorted(into.foreign)) or "none"
    raise CodesignError(
        f"{shown} has no span of vllm-codesign, but of: {others}; "
        "was the request served with VLLM_PLUGINS=codesign?"
    )


def _window(backend: Searchable, service: str, query: Query, into: Collected) -> None:
    since, until = query.window()
    engine = service + Service.ENGINE

    def enough() -> bool:
        return len(into.roots) >= query.limit

    whole = _search(backend, service, None, since, until, into, enough)
    # Of the engine alone: work that outlived its response, and requests without HTTP.
    whole &= _search(backend, engine, semconv.ENGINE_REQUEST.name, since, until, into, enough)
    if not whole:
        into.note(
            f"older requests are left out: --limit {query.limit:,} was reached"
            if enough()
            else f"{backend.name} did not hand over every request: a search of it is limited"
        )
    if not into.roots:
        raise CodesignError(_nothing(backend, service, query, into))


def _search(
    backend: Searchable,
    service: str,
    span: str | None,
    since_ns: int,
    until_ns: int,
    into: Collected,
    enough: Callable[[], bool] = lambda: False,
) -> bool:
    def find(start: int, end: int) -> int:
        return backend.find(service, span, start, end, into)

    return slices.search(since_ns, until_ns, find, backend.most, backend.least_ns, enough)


def _nothing(backend: Searchable, service: str, query: Query, into: Collected) -> str:
    if into.spans:
        return (
            f"{backend.name} has spans of {service!r} but no whole request in this time: "
            "they are still arriving, or were cut; ask again in 10 s"
        )
    if into.foreign:
        return (
            f"{backend.name} has traces of {service!r} in this time, but no span of "
            "vllm-codesign: were they served with VLLM_PLUGINS=codesign?"
        )
    known = backend.services()
    if service not in known and known:
        return (
            f"{backend.name} knows no service {service!r}; name one with --service: "
            + ", ".join(sorted(known))
        )
    when = "in the last hour" if query.since_ns is None else "in this time"
    return f"no request of {service!r} {when} in {backend.name}: ask for more with --since 1d"


def _lmcache_services(backend: Searchable, query: Query) -> list[str]:
    """LMCache sends under `OTEL_SERVICE_NAME`, and under the SDK's own name without one."""
    if query.lmcache_service is not None:
        return [query.lmcache_service]
    return [
        name
        for name in backend.services()
        if "lmcache" in name.lower() or name.startswith("unknown_service")
    ]
