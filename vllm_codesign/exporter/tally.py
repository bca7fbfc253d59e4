"""What the exporters of one session count as lost, one after the other: in its control page.

A killed exporter takes its own counts along. Those of losses stand in shared memory as well, so
that the next one goes on where it stood: what was lost is not forgotten, and told once.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_codesign.exporter.collect import kind_name
from vllm_codesign.recorder.layout import MAX_KINDS
from vllm_codesign.recorder.session import C_COUNTED_SINCE, C_DROPS_TOLD, C_LOSSES, Session

LOSSES = (
    "requests_lost",
    "rows_not_stored",
    "steps_lost",
    "steps_not_stored",
    "traces_failed",
    "roots_skipped",
    "orphan_records",
    "hook_errors",
    "otlp_dropped",
    "otlp_failed",
    "metrics_failed",
    "connector_calls_missed",
)
"""Counters of `run.json` that say that something is missing. The place of each in the control
page is its place here: new ones go to the end."""

_U64 = struct.Struct("<Q")
_LOSSES = struct.Struct(f"<{len(LOSSES)}Q")
_DROPS = struct.Struct(f"<{MAX_KINDS}Q")
assert C_LOSSES + _LOSSES.size <= C_DROPS_TOLD


@dataclass(frozen=True, slots=True)
class Before:
    """Where the counters of losses stood when the exporter before ended; 0 in the first one."""

    since_ns: int
    """Unix time from which on they count: the first exporter's start."""
    losses: Mapping[str, int] = field(default_factory=dict)
    drops: Mapping[str, int] = field(default_factory=dict)
    """By the name of the record's kind."""


class Tally:
    """The counts of all exporters of a session together; one of them writes at a time."""

    def __init__(self, session: Session) -> None:
        self._page = session.control
        (since_ns,) = _U64.unpack_from(self._page, C_COUNTED_SINCE)
        if not since_ns:
            since_ns = time.time_ns()
            _U64.pack_into(self._page, C_COUNTED_SINCE, since_ns)
        losses = _LOSSES.unpack_from(self._page, C_LOSSES)
        drops = enumerate(_DROPS.unpack_from(self._page, C_DROPS_TOLD))
        self.before = Before(
            since_ns,
            dict(zip(LOSSES, losses, strict=True)),
            {kind_name(number): count for number, count in drops if count},
        )

    def add(self, own: Mapping[str, int]) -> dict[str, int]:
        """`own`, which this exporter counted from 0, on top of what those before it counted."""
        return {name: self.before.losses[name] + count for name, count in own.items()}

    def note(self, totals: Mapping[str, int]) -> None:
        """All of `LOSSES` as they stand now, for the exporter after this one."""
        _LOSSES.pack_into(self._page, C_LOSSES, *(totals[name] for name in LOSSES))

    def note_drops(self, drops: Mapping[int, int]) -> None:
        """Records lost, by the number of their kind, as they are about to be told."""
        counts = (drops.get(number, 0) for number in range(MAX_KINDS))
        _DROPS.pack_into(self._page, C_DROPS_TOLD, *counts)
