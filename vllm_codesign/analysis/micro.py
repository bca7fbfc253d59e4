"""What `codesign micro` found: its file read back, and a time between two measured sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.micro import MicroRun, Skipped, Timing

_NAMED = 3


def read(path: Path) -> MicroRun:
    """The run in `path`; CodesignError where there is none or it is damaged."""
    try:
        return MicroRun.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CodesignError(
            f"{path}: cannot be read ({error.strerror}): name what `codesign micro --out` wrote"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise CodesignError(
            f"{path}: not a file of this version's `codesign micro` ({field}: {first['msg']}): "
            "write it anew"
        ) from error


def at(timings: Iterable[Timing], tokens: int | None) -> float | None:
    """Median nanoseconds at that many tokens, between two sizes along the straight line through
    the logarithms; None outside of them. Without `tokens` the smallest size's."""
    known = {timing.tokens: timing.median_ns for timing in timings}
    if tokens in known:
        return known[tokens]
    sizes = sorted(size for size in known if size)
    if tokens is None:
        return known[sizes[0]] if sizes else None
    below = [size for size in sizes if size < tokens]
    above = [size for size in sizes if size > tokens]
    if not below or not above:
        return None
    left, right = below[-1], above[0]
    share = math.log(tokens / left) / math.log(right / left)
    return float(known[left] * (known[right] / known[left]) ** share)


def by_reason(skipped: Iterable[Skipped]) -> list[tuple[str, str]]:
    """(what, why): each reason once, with the first of those it goes for and how many more."""
    found: dict[str, list[str]] = {}
    for each in skipped:
        found.setdefault(each.reason, []).append(each.component)
    return [(_few(names), reason) for reason, names in found.items()]


def _few(names: list[str]) -> str:
    shown = "; ".join(names[:_NAMED])
    more = len(names) - _NAMED
    return f"{shown}; {more} more" if more > 0 else shown
