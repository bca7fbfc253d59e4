"""What every network back end does around its searches: one trace, or a window, and its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from vllm_codesign import semconv
from vllm_codesign.backends import slices
from vllm_codesign.backends.collected import LMCACHE_ROOT, Collected
from vllm_codesign.backends.query import Query
from vllm_codesign.backends.slices import Slice
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.semconv import Service

STEPS_BEFORE_NS = 5_000_000_000
"""A step that holds up a request may have begun before it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Traces with a span of this service, of this name if one is given, that begins then."""

    service: str
    span: str | None
    since_ns: int
    until_ns: int


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

    def find(self, asked: Wanted, most: int, into: Collected) -> Slice:
        """The traces with such a span, `most` at most, to be taken."""
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
    since, until = into.window()
    since = max(0, since - STEPS_BEFORE_NS)
    for service in sorted(into.services):
        steps = Wanted(service + Service.ENGINE, semconv.STEP.name, since, until)
        if not _search(backend, steps, into):
            into.note(f"{backend.name} did not hand over every step: a search of it is limited")
    for name in _lmcache_services(backend, query):
        _search(backend, Wanted(name, LMCACHE_ROOT, since, until), into)


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
    # Of the engine alone: work that outlived its response, and requests without HTTP.
    for wanted in (
        Wanted(service, None, since, until),
        Wanted(service + Service.ENGINE, semconv.ENGINE_REQUEST.name, since, until),
    ):
        already = len(into.roots)

        def enough(already: int = already) -> bool:
            return len(into.roots) - already > query.limit

        # One more than is wanted shows that there are more.
        most = min(backend.most, query.limit + 1)
        if not _search(backend, wanted, into, most, enough) and not enough():
            into.note(f"{backend.name} did not hand over every request: a search of it is limited")
    if into.keep_newest(query.limit):
        into.note(f"the newest {query.limit:,} requests alone: --limit was reached")
    if not into.roots:
        raise CodesignError(_nothing(backend, service, query, into))


def _search(
    backend: Searchable,
    wanted: Wanted,
    into: Collected,
    most: int | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> bool:
    most = backend.most if most is None else most

    def find(start: int, end: int) -> Slice:
        return backend.find(replace(wanted, since_ns=start, until_ns=end), most, into)

    span = wanted.since_ns, wanted.until_ns
    return slices.search(*span, find, most, backend.least_ns, enough)


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
