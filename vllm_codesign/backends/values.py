"""Numbers, times, texts and ids as back ends answer with them, or a ValueError of one line.

An answer may be JSON and still hold anything: a time of 23 digits, half of a surrogate pair, an id
that is a number. What has passed here can be stored, sorted and counted with.
"""

from __future__ import annotations

import base64
import math
import re
from typing import Any

TIMES = 1 << 62
"""Bound of Unix times in nanoseconds: in the year 2116."""
LENGTHS = 1 << 60
"""Bound of lengths of time: 36 years in nanoseconds. A few of them beside a Unix time still fit
into 64 bits."""
_SHOWN = 40
_HEX = re.compile(r"[0-9a-fA-F]+")
_HEX_DIGITS = (32, 16)


def text(value: Any) -> str:
    """Without what UTF-8 cannot say; nothing where there is nothing."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no text")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def integer(value: Any) -> int:
    """A whole number of 64 bits, as JSON's number or as text, which is how protobuf has it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{shown(value)} is no whole number")
    try:
        number = int(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{shown(value)} is no whole number") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{shown(value)} does not fit into 64 bits")
    return number


def real(value: Any) -> float:
    """NaN and the infinities come as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{shown(value)} is no number")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{shown(value)} is no number") from None


def unix_ns(value: Any, unit_ns: int = 1) -> int:
    """A time since the Unix epoch, which has come in units of so many nanoseconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{shown(value)} is no time")
    try:
        time_ns = int(value) * unit_ns
    except (ValueError, OverflowError):
        raise ValueError(f"{shown(value)} is no time") from None
    if not 0 <= time_ns < TIMES:
        raise ValueError(f"{shown(value)} is no time between 1970 and 2116")
    return time_ns


def identifier(value: Any, bits: int) -> int:
    """A trace id (128 bits) or a span id (64), in hex or in base64: their lengths differ."""
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no id")
    if len(value) in _HEX_DIGITS and _HEX.fullmatch(value):
        found = int(value, 16)
    else:
        try:
            found = int.from_bytes(base64.b64decode(value, validate=True))
        except ValueError:
            raise ValueError(f"{shown(value)} is no id") from None
    return _fits(found, value, bits)


def hexadecimal(value: Any, bits: int) -> int:
    """An id in hex whose leading zeros may be missing."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError(f"{shown(value)} is no id")
    return _fits(int(value, 16), value, bits)


def _fits(found: int, value: str, bits: int) -> int:
    if found >= 1 << bits:
        raise ValueError(f"{shown(value)} is too long for an id of {bits} bits")
    return found


def shown(value: Any) -> str:
    """The beginning of it, on one line and printable."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    said = ascii(value) if not isinstance(value, int) or abs(value) < 10**_SHOWN else "a number"
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
