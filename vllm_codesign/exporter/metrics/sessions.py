"""Sessions that are in use."""

from __future__ import annotations

from collections import OrderedDict

from vllm_codesign import semconv as S
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.semconv import metrics as M

IN_USE_NS = 300_000_000_000
MAX_SESSIONS = 100_000


class Sessions:
    """Those of which a request has ended in the last five minutes, the oldest first."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen: OrderedDict[str, int] = OrderedDict()

    def take(self, trace: RequestTrace, now_ns: int) -> None:
        """A request that has ended; one without a session is none."""
        session = trace.root.attributes.get(S.SESSION_ID.key)
        if isinstance(session, str):
            self._seen[session] = now_ns
            self._seen.move_to_end(session)
            if len(self._seen) > MAX_SESSIONS:
                self._seen.popitem(last=False)

    def look(self, now_ns: int) -> None:
        """Once a second."""
        while self._seen and now_ns - next(iter(self._seen.values())) > IN_USE_NS:
            self._seen.popitem(last=False)
        self._board.put(M.SESSIONS, len(self._seen))
