"""Where traces are read from: a capture on this machine, or a back end that OTLP filled.

One row for each back end: what its name is in `SCHEME:ADDRESS`, and what reads it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from vllm_codesign.backends import jaeger, otlp_file, tempo
from vllm_codesign.backends.collected import Collected, collected_in
from vllm_codesign.backends.query import DEFAULT_LIMIT, Query
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import Span
from vllm_codesign.store.capture import Capture, resolve

Reader = Callable[[str, Query, Collected], None]
"""Hands every span that it finds at an address to `Collected.take`."""

READERS: Mapping[str, Reader] = {
    "jaeger": jaeger.read,
    "tempo": tempo.read,
    "otlp-json": otlp_file.read,
}
_FILES = ("otlp-json",)
"""Read whole: there is nobody to ask for less, or to send anything to."""

_NOT_THERE = (
    "CPU, event loop and GPU series are in captures alone",
    "records lost by this server are known only where a request says so (`codesign.lossy`)",
)


@dataclass(frozen=True, slots=True)
class Source:
    """What is analysed."""

    name: str
    """As it was asked for."""
    capture: Capture
    """Where its spans lie; of a back end for as long as the source is open."""
    query: Query = field(default_factory=Query)
    """Of all requests there, those that are meant."""
    remote: bool = False
    notes: tuple[str, ...] = ()
    lmcache: tuple[Span, ...] = ()


@contextmanager
def opened(text: str, query: Query) -> Iterator[Source]:
    """`SCHEME:ADDRESS` or the path of a capture; what was fetched is gone afterwards.

    Raises `CodesignError` where it cannot be read, or holds nothing that was asked for.
    """
    scheme, colon, address = text.partition(":")
    reader = READERS.get(scheme)
    if reader is None or scheme in _FILES:
        _refuse_what_is_asked_of_searches(query)
    if reader is None:
        yield _local(text, bool(colon), query)
        return
    if not address:
        raise CodesignError(f"{text!r} lacks an address: write {_FORMS}")
    with tempfile.TemporaryDirectory(prefix="codesign-from-") as folder:
        into = collected_in(Path(folder) / scheme)
        into.instance = query.instance
        reader(address, query, into)
        into.close()
        if len(into.instances) > 1:
            # Their clocks are their hosts', and their engines may have the same process ids.
            raise CodesignError(
                f"{len(into.instances)} servers have sent these requests "
                f"({', '.join(sorted(into.instances))}): name one with --instance"
            )
        yield Source(
            name=text,
            capture=into.capture,
            query=query if into.since_ns is None else replace(query, since_ns=into.since_ns),
            remote=True,
            notes=(*into.notes, *_strangers(into), *_NOT_THERE),
            lmcache=tuple(into.lmcache),
        )


_FORMS = "jaeger:http://HOST:16686, tempo:http://HOST:3200, otlp-json:FILE, or a capture's folder"


def _refuse_what_is_asked_of_searches(query: Query) -> None:
    if query.limit != DEFAULT_LIMIT or query.lmcache_service is not None or query.headers:
        raise CodesignError(
            "--limit, --lmcache-service and --header go with jaeger: and tempo:, which are searched"
        )


def _local(text: str, has_colon: bool, query: Query) -> Source:
    path = Path(text)
    if has_colon and not path.exists():
        raise CodesignError(f"{text!r} is neither a path nor a back end: write {_FORMS}")
    capture = resolve(path)
    return Source(name=str(capture.path), capture=capture, query=query)


def _strangers(into: Collected) -> Iterator[str]:
    if into.foreign:
        services = ", ".join(f"{name} {count:,}" for name, count in into.foreign.most_common(5))
        yield f"spans of others in the same traces are left out: {services}"
