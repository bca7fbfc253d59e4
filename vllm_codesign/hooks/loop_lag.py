"""Lag of the API server's event loop: a timer of 100 ms records when it was due and when it ran.

The first request that is seen while the level is not off starts it, and it ends when the level
is off: a dormant server has no timer of ours. One loop at a time: a request on another loop
(tests, a server that is restarted in its process) moves it there.

uvloop's timers count whole milliseconds, so lags below one are noise.
"""

from __future__ import annotations

import asyncio
import weakref

from vllm_codesign.hooks.wrap import swallow
from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import LEVEL, clock
from vllm_codesign.recorder.layout import Kind

PERIOD_S = 0.1
_PERIOD_NS = 100_000_000


class _Ticker:
    """A timer on one loop, until another loop has one."""

    __slots__ = ("due", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weak: a loop that was closed is not kept by us.
        self.loop = weakref.ref(loop)
        self._arrange(loop)

    def _arrange(self, loop: asyncio.AbstractEventLoop) -> None:
        self.due = clock() + _PERIOD_NS
        loop.call_later(PERIOD_S, self._tick)

    def _tick(self) -> None:
        global _ticker
        if _ticker is not self:
            return
        try:
            now, due = clock(), self.due
            loop = self.loop()
            if loop is None or not LEVEL.byte[0]:
                _ticker = None
                return
            # Counted from now, not from when it was due: one tick after a stall, no volley.
            self._arrange(loop)
            active.emit(Kind.LOOP_LAG, 0, due, now)
        except Exception:  # noqa: BLE001  # it would reach the loop's exception handler
            _ticker = None
            swallow()


_ticker: _Ticker | None = None


def keep_ticking() -> None:
    """See to it that the running loop has a timer. Called for every request."""
    global _ticker
    loop = asyncio.get_running_loop()
    if _ticker is None or _ticker.loop() is not loop:
        _ticker = _Ticker(loop)
