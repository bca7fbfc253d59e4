"""Columns of int64 that grow at the end and are dropped from the front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vllm_codesign.accounting.sweep import Times

_LEAST = 1024
_MANY = 4096


class Columns:
    """`width` columns of the same length; each is contiguous in memory.

    Rows are kept as they come until a column is asked for, or there are `_MANY`: an array is made
    of many at once in a fraction of the time that they take one by one.
    """

    __slots__ = ("_data", "_new", "_size")

    def __init__(self, width: int) -> None:
        self._data: Times = np.empty((width, _LEAST), dtype=np.int64)
        self._size = 0
        self._new: list[Sequence[int]] = []

    def append(self, row: Sequence[int]) -> None:
        """Add a row of `width` numbers."""
        self._new.append(row)
        if len(self._new) >= _MANY:
            self._settle()

    def drop(self, count: int) -> None:
        """Forget the first `count` rows. Columns handed out before keep their values."""
        self._settle()
        self._data = self._data[:, count : self._size].copy()
        self._size -= count

    def __getitem__(self, column: int) -> Times:
        """A column of the rows so far."""
        if self._new:
            self._settle()
        values: Times = self._data[column, : self._size]
        return values

    def __len__(self) -> int:
        return self._size + len(self._new)

    def _settle(self) -> None:
        size = len(self)
        if size > self._data.shape[1]:
            room = np.empty((len(self._data), max(2 * self._data.shape[1], size, _LEAST)), np.int64)
            room[:, : self._size] = self._data[:, : self._size]
            self._data = room
        if self._new:
            self._data[:, self._size : size] = np.array(self._new, dtype=np.int64).T
        self._size = size
        self._new.clear()
