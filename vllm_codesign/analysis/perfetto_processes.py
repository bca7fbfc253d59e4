"""The processes of a Perfetto trace, by their pids as far as a capture knows them."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_codesign.analysis.perfetto_writer import TraceWriter

_MADE_UP = 1 << 22
"""Linux gives no pid beyond it: processes whose pid is not known get these."""


class Processes:
    """The processes of the trace; each is described when it is first asked for."""

    def __init__(
        self, writer: TraceWriter, pids: Mapping[str, tuple[int, ...]], ranks: Mapping[int, int]
    ) -> None:
        self._writer = writer
        self._pids = pids
        self._ranks = ranks
        self._made_up = _MADE_UP
        self._api_server = 0
        self.tracks: dict[int, int] = {}
        """By pid."""

    def _known(self, pid: int, name: str) -> int:
        if pid not in self.tracks:
            self.tracks[pid] = self._writer.process(pid, name)
        return pid

    def unknown(self, name: str) -> int:
        """A process whose pid is not known; its pid here."""
        self._made_up += 1
        return self._known(self._made_up, name)

    def engine(self, pid: int) -> int:
        return self._known(pid, "EngineCore")

    def api_server(self) -> int:
        """Spans do not say which of several it was: they share a process."""
        if not self._api_server:
            pids = self._pids.get("api_server", ())
            if len(pids) == 1:
                self._api_server = self._known(pids[0], "API server")
            else:
                listed = f"s {', '.join(map(str, pids))}" if pids else ""
                self._api_server = self.unknown(f"API server{listed}")
        return self._api_server

    def worker(self, name: str, rank: int | None) -> int:
        """That of a rank, where the capture tells which process it was."""
        pid = self._ranks.get(rank) if rank is not None else None
        return self._known(pid, name) if pid is not None else self.unknown(name)
