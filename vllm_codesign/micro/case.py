"""What is timed: one component at one size, and how it is known that it did its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Group = Literal["frontend", "hashing", "scheduler"]


@dataclass(frozen=True, slots=True)
class Ready:
    """One call, ready to be timed.

    `check` gets what `call` returned and says what is wrong with it, or None; it runs outside
    the timing. `units` is how many times `call` does what the case is named for.
    """

    call: Callable[[], Any]
    check: Callable[[Any], str | None]
    units: int = 1


@dataclass(frozen=True, slots=True)
class Case:
    """A component at one size. `prepare` makes whatever one call uses up, outside the timing."""

    component: str
    group: Group
    prepare: Callable[[], Ready]
    variant: str = ""
    tokens: int | None = None
    note: str = ""

    def __str__(self) -> str:
        variant = f" ({self.variant})" if self.variant else ""
        size = f" at {self.tokens:,} tokens" if self.tokens is not None else ""
        return f"{self.component}{variant}{size}"


def same(wanted: object, what: str) -> Callable[[Any], str | None]:
    """A check that the result is `wanted`."""
    return lambda found: None if found == wanted else f"{what} is not what went in"
