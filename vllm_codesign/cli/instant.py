"""A time on the command line: an instant, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from vllm_codesign.model.errors import CodesignError

_AGO = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant_ns(text: str, now_ns: int) -> int:
    """Unix nanoseconds of `text`: `90s`, `30m`, `2h` or `7d` before `now_ns`, or ISO 8601.

    A time without a zone is UTC, as everywhere in OpenTelemetry.
    """
    if ago := _AGO.fullmatch(text):
        return now_ns - int(ago.group(1)) * _SECONDS[ago.group(2)] * 1_000_000_000
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise CodesignError(
            f"{text!r} is no time: want 30m, 2h, 7d, or as 2026-11-25T14:00 (UTC)"
        ) from None
    since = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)) - _EPOCH
    # In whole microseconds: a float would lose some.
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
