"""Reads the rings of a session's producers, and knows which of them still live."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.process import alive
from vllm_codesign.recorder.reader import NotARing, Record, RingReader
from vllm_codesign.recorder.session import Session

logger = logging.getLogger(__name__)

_NAMES = {kind.value: kind.name.lower() for kind in Kind}


def kind_name(number: int) -> str:
    """What a kind of record is called in `run.json` and in metrics."""
    return _NAMES.get(number, f"kind_{number}")


class Collector:
    """All rings of one session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._rings: dict[Path, RingReader] = {}
        self._refused: set[Path] = set()
        self.gone: frozenset[int] = frozenset()
        """Producers that had ended at the last `any_alive`."""

    def find(self) -> None:
        """Take up rings that appeared since the last look."""
        for path in self.session.rings():
            if path in self._rings:
                continue
            try:
                self._rings[path] = RingReader(path)
            except NotARing as error:
                # The magic is written last: most likely it is being made right now.
                if not _recent(path):
                    self._refuse(path, error)
            except OSError as error:
                self._refuse(path, error)

    def _refuse(self, path: Path, error: Exception) -> None:
        if path not in self._refused:  # it is tried again, and said once
            self._refused.add(path)
            logger.error("codesign: records of one process are not read: %s", error)

    def read(
        self, final: bool = False, before_release: Callable[[], None] | None = None
    ) -> Iterator[tuple[int, Record]]:
        """(pid, record) for everything new, ring by ring; `before_release` as a ring has it."""
        for ring in self._rings.values():
            pid = ring.pid
            for record in ring.read(final or pid in self.gone, before_release):
                yield pid, record

    def any_alive(self) -> bool:
        """Whether the server still has a process that may record or make one that does."""
        rings = self._rings.values()
        owner = self.session.owner
        closing = self.session.closing  # then the owner only waits for us to end
        self.gone = frozenset(
            ring.pid
            for ring in rings
            if not alive(ring.pid, ring.ticks) or (closing and (ring.pid, ring.ticks) == owner)
        )
        return len(self.gone) < len(rings) or (alive(*owner) and not closing)

    @property
    def capacity(self) -> int:
        """Records that all rings together can hold."""
        return sum(ring.capacity for ring in self._rings.values())

    @property
    def lost(self) -> int:
        return sum(ring.lost for ring in self._rings.values())

    @property
    def errors(self) -> int:
        """Exceptions swallowed in hooks, all producers."""
        return sum(ring.errors for ring in self._rings.values())

    def drops(self) -> dict[int, int]:
        """Lost records by the number of their kind."""
        total: Counter[int] = Counter()
        for ring in self._rings.values():
            total.update(ring.drops())
        return dict(total)

    @property
    def running(self) -> list[int]:
        """Producers that had not ended at the last `any_alive`."""
        return [pid for pid in self.pids if pid not in self.gone]

    @property
    def pids(self) -> list[int]:
        return [ring.pid for ring in self._rings.values()]


def _recent(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < 5.0
    except FileNotFoundError:
        return True
