"""Own times of hooks, kept in the process that they are taken in until they are asked for."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from vllm_codesign.recorder.active import LEVEL

KEPT = 200_000
"""Samples of a row: a few MB at most, and more than a load of some thousand requests has."""


class Samples:
    """Own times of each row in this process, in nanoseconds: the last KEPT of them.

    `calls` counts all that were made while the level was not 0.
    """

    def __init__(self) -> None:
        self.rows: dict[str, deque[int]] = {}
        self.dormant: dict[str, deque[int]] = {}
        self.calls: Counter[str] = Counter()
        self.shims: dict[str, str] = {}

    def of(self, row: str, shim: str) -> Callable[[int], None]:
        """Where to put a sample of this row, taken by shims of this kind."""
        kept = self.rows.setdefault(row, deque(maxlen=KEPT))
        dormant = self.dormant.setdefault(row, deque(maxlen=KEPT))
        calls = self.calls
        self.shims[row] = shim

        def put(ns: int) -> None:
            if LEVEL.byte[0]:
                calls[row] += 1
                kept.append(ns)
            else:
                dormant.append(ns)

        return put

    def clear(self) -> None:
        for kept in (*self.rows.values(), *self.dormant.values()):
            kept.clear()
        self.calls.clear()

    def write(self, path: Path) -> None:
        rows = {
            row: {
                "shim": self.shims[row],
                "calls": self.calls[row],
                "ns": list(kept),
                "dormant_ns": list(self.dormant[row]),
            }
            for row, kept in self.rows.items()
            if kept
        }
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(rows))
        partial.rename(path)
