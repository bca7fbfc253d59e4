"""`--from` and what goes with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from vllm_codesign.analysis.sources import Source, opened
from vllm_codesign.backends.query import DEFAULT_LIMIT, Query, parse_time, parse_trace_id
from vllm_codesign.cli.headers import parse_headers
from vllm_codesign.store.clickhouse.target import PREFIX

_NARROWING = (
    "service",
    "instance",
    "since",
    "until",
    "limit",
    "trace",
    "lmcache_service",
    "header",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say; `text` None where there is no --from."""

    text: str | None
    query: Query

    @property
    def in_clickhouse(self) -> bool:
        """Nothing is read back: it has the same tables made where the spans are."""
        return self.text is not None and self.text.startswith(PREFIX)

    @contextmanager
    def opened(self, capture: Path | None, progress: Console) -> Iterator[Source | None]:
        """None where there is no --from: then `capture` is what counts."""
        if self.text is None:
            yield None
            return
        if capture is not None:
            raise click.UsageError("name a capture or --from, not both")
        status = progress.status("reading the traces back")
        status.start()
        try:
            with opened(self.text, self.query) as source:
                status.stop()
                yield source
        finally:
            status.stop()


def source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options; the command gets them as one argument, `asked`."""

    @wraps(command)
    def with_asked(source: str | None, **options: Any) -> None:
        narrowing = {name: options.pop(name) for name in _NARROWING}
        if source is None and (given := [name for name, value in narrowing.items() if value]):
            raise click.UsageError(f"--{given[0].replace('_', '-')} goes with --from")
        command(**options, asked=Asked(source, _query(**narrowing)))

    for option in reversed(_OPTIONS):
        with_asked = option(with_asked)
    return with_asked


def _query(
    service: str | None,
    instance: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    trace: str | None,
    lmcache_service: str | None,
    header: tuple[str, ...],
) -> Query:
    now = time.time_ns()
    return Query(
        service=service,
        instance=instance,
        since_ns=parse_time(since, now) if since else None,
        until_ns=parse_time(until, now) if until else None,
        limit=limit or DEFAULT_LIMIT,
        trace_id=parse_trace_id(trace) if trace else None,
        lmcache_service=lmcache_service,
        headers=parse_headers(header),
    )


_OPTIONS = (
    click.option(
        "--from",
        "source",
        metavar="SOURCE",
        help="jaeger:URL, tempo:URL, clickhouse:URL, otlp-json:FILE, or a capture's folder.",
    ),
    click.option(
        "--service",
        metavar="NAME",
        help="With --from: `service.name` of the server. Default: vllm; of a file, all.",
    ),
    click.option(
        "--instance",
        metavar="ID",
        help="With --from: `service.instance.id` of the server, where several have sent.",
    ),
    click.option(
        "--since",
        metavar="WHEN",
        help="With --from: 10m, 2h, 1d (ago), 2026-11-23T10:00:00Z. Default: 1h; of a file, all.",
    ),
    click.option("--until", metavar="WHEN", help="With --from: the same. Default: now."),
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"With --from: the newest N requests of a back end. Default: {DEFAULT_LIMIT}.",
    ),
    click.option("--trace", metavar="ID", help="With --from: this trace alone."),
    click.option(
        "--lmcache-service",
        metavar="NAME",
        help="With --from: `service.name` of LMCache's server. Default: those that look like it.",
    ),
    click.option(
        "--header",
        multiple=True,
        metavar="'NAME: VALUE'",
        help="With --from: sent along, as credentials or X-Scope-OrgID; may be repeated.",
    ),
)
