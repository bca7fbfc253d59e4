"""Maps the host's monotonic clock to Unix time."""

from __future__ import annotations

import time

REFRESH_S = 60.0


def read_both() -> tuple[int, int]:
    """(monotonic, Unix) of one instant: the closest pair of five readings."""
    best: tuple[int, int, int] | None = None
    for _ in range(5):
        before = time.monotonic_ns()
        unix = time.time_ns()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, unix)
    assert best is not None
    return best[1], best[2]


class Anchor:
    """One reading of both clocks, refreshed each minute, since the wall clock is steered."""

    def __init__(self) -> None:
        self.readings: list[tuple[int, int]] = []
        self.refresh()

    def refresh(self) -> None:
        self.readings.append(read_both())
        # The first says when we began, the last few what the wall clock does.
        del self.readings[1:-9]

    def poll(self) -> bool:
        """Refresh if it is time; True if it was."""
        if time.monotonic_ns() - self.readings[-1][0] < REFRESH_S * 1e9:
            return False
        self.refresh()
        return True

    def to_unix(self, monotonic_ns: int) -> int:
        monotonic, unix = self.readings[-1]
        return monotonic_ns - monotonic + unix
