"""What is asked of a back end, and which of the requests that come back are meant."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from vllm_codesign.backends.values import unix_ns
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.semconv import Service

DEFAULT_SINCE_NS = 3_600_000_000_000
DEFAULT_LIMIT = 10_000

_AGO = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Query:
    """Unix times in ns; None where nothing was asked for, which each back end fills in."""

    service: str | None = None
    """`service.name` of the API server's spans; the other processes add to it."""
    since_ns: int | None = None
    until_ns: int | None = None
    limit: int = DEFAULT_LIMIT
    """Requests at most, the newest first; a back end's searches alone are limited."""
    trace_id: int | None = None
    instance: str | None = None
    """`service.instance.id` of the server."""
    lmcache_service: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def window(self) -> tuple[int, int]:
        """From when to when to search: the last hour where nothing is said."""
        until = time.time_ns() if self.until_ns is None else self.until_ns
        since = max(0, until - DEFAULT_SINCE_NS) if self.since_ns is None else self.since_ns
        if since >= until:
            raise CodesignError("--since is not before --until: nothing lies between them")
        return since, until

    def means(self, trace: RequestTrace) -> bool:
        """Whether this request is asked for."""
        root = trace.root
        if self.trace_id is not None:
            return root.trace_id == self.trace_id
        return (
            (self.service is None or root.service in (self.service, self.service + Service.ENGINE))
            and (self.since_ns is None or root.start_ns >= self.since_ns)
            and (self.until_ns is None or root.start_ns <= self.until_ns)
        )


def parse_time(text: str, now_ns: int) -> int:
    """`10m`, `2h`, `1d` (ago), `2026-11-23T10:00:00Z` or Unix seconds, as Unix ns.

    A time without a zone is UTC, as everywhere in OpenTelemetry. Raises `CodesignError` for
    anything else, and for a time that nothing can be of.
    """
    try:
        return unix_ns(_parsed(text, now_ns))
    except (ValueError, OverflowError):
        raise CodesignError(
            f"{text!r} is not between 1970 and 2116: name one between them"
        ) from None


def _parsed(text: str, now_ns: int) -> int:
    if found := _AGO.fullmatch(text):
        return now_ns - round(float(found[1]) * _SECONDS[found[2]] * 1e9)
    if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CodesignError(
            f"{text!r} is no time: write 10m, 2h or 1d (ago), 2026-11-23T10:00:00Z, or Unix seconds"
        ) from None
    since = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH
    # In integers: a float would lose the microseconds.
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000


def parse_trace_id(text: str) -> int:
    """32 hexadecimal digits, or fewer where leading zeros were left out."""
    if not re.fullmatch(r"[0-9a-fA-F]{1,32}", text) or not int(text, 16):
        raise CodesignError(f"{text!r} is no trace id: it has up to 32 hexadecimal digits")
    return int(text, 16)
