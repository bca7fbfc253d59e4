"""A table of text, made once: the terminal and the page print the same cells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sheet:
    """The first `names` columns hold names from outside, not escaped; the rest figures. The first
    `heads` of them say what a row is of, where their cells are not empty."""

    title: str
    columns: tuple[str, ...]
    names: int
    rows: tuple[tuple[str, ...], ...]
    heads: int = 1
