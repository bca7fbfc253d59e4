"""Many slices of one track in little memory, put in order once all are there."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Slice(NamedTuple):
    """`key` and `tag` are the owner's."""

    start: int
    end: int
    name: str
    key: int
    tag: int


class Slices:
    """29 bytes a slice; a name is kept once."""

    def __init__(self) -> None:
        self._starts, self._ends, self._keys = array("q"), array("q"), array("q")
        self._whats, self._tags = array("I"), array("B")
        self._names: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def first(self) -> int:
        return min(self._starts)

    @property
    def last(self) -> int:
        return max(self._ends)

    def add(self, start: int, end: int, name: str, key: int = 0, tag: int = 0) -> None:
        self._starts.append(start)
        self._ends.append(end)
        self._keys.append(key)
        self._whats.append(self._names.setdefault(name, len(self._names)))
        self._tags.append(tag)

    def shift(self, by: int) -> None:
        """Move all of them."""
        for column in (self._starts, self._ends):
            view = np.frombuffer(column, dtype=np.int64)
            view += by

    def __iter__(self) -> Iterator[Slice]:
        """By start, of those that start together the longer first."""
        names = list(self._names)
        ends = np.array(self._ends, dtype=np.int64)
        for i in np.lexsort((-ends, np.array(self._starts, dtype=np.int64))).tolist():
            yield Slice(
                self._starts[i], self._ends[i], names[self._whats[i]], self._keys[i], self._tags[i]
            )
