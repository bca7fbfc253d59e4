"""What the KV caches did for one request: blocks, tokens by source, transfers, stranded bytes."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_codesign import semconv as S
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.exporter.metrics.histograms import Histograms, Ids
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import Record
from vllm_codesign.semconv import metrics as M

_TRANSFERS = {S.KV_LOAD.name: "load", S.KV_STORE.name: "store"}
_BLOCKS = {
    S.KV_ALLOCATE.name: (S.KV_BLOCKS, S.KV_BLOCKS_EVICTED),
    S.DECODE.name: (S.DECODE_BLOCKS, S.DECODE_BLOCKS_EVICTED),
}
_SOURCES = (
    ("hbm", S.KV_TOKENS_HIT_HBM),
    ("external", S.KV_TOKENS_HIT_EXTERNAL),
    ("computed", S.PREFILL_COMPUTED),
    ("computed_again", S.KV_TOKENS_AGAIN),
)


class CacheMetrics:
    """Also learns from the records how large a block is, which spans say only of those reused."""

    KINDS = frozenset((Kind.ENG_BLOCKS,))

    def __init__(self, board: Board, histograms: Histograms) -> None:
        self._board = board
        self._histograms = histograms
        self._block_bytes: dict[int, int] = {}
        self._unsized: dict[int, int] = {}
        """By EngineCore: blocks times nanoseconds, until it is known how large a block is."""
        for operation in ("allocated", "evicted"):
            board.add(M.KV_BLOCKS, 0, operation)
        for source, _ in _SOURCES:
            board.add(M.KV_TOKENS, 0, source)
        board.add(M.STRANDED, 0)

    def learn(self, pid: int, record: Record) -> None:
        """A record that says how many bytes a block of this EngineCore has."""
        self._block_bytes[pid] = record.b
        self._board.add(M.STRANDED, self._unsized.pop(pid, 0) * record.b)

    def take(self, trace: RequestTrace, ids: Ids | None) -> None:
        """One request."""
        for span in trace.children:
            of = span.attributes
            if (transfer := _TRANSFERS.get(span.name)) is not None:
                self._transfer(transfer, span, ids)
            elif span.name == S.PREFILL.name:
                for source, attribute in _SOURCES:
                    self._board.add(M.KV_TOKENS, _int(of, attribute), source)
                held = _int(of, S.KV_REUSED_BYTES) * _int(of, S.KV_REUSED_IDLE)
                self._board.add(M.STRANDED, held)
            if (blocks := _BLOCKS.get(span.name)) is not None:
                self._board.add(M.KV_BLOCKS, _int(of, blocks[0]), "allocated")
                self._board.add(M.KV_BLOCKS, _int(of, blocks[1]), "evicted")
            for event in span.events:
                if event.name == S.EVENT_EVICTED:
                    self._evicted(_int(of, S.ENGINE_PID), event.attributes)

    def _evicted(self, engine: int, of: Mapping[str, AttributeValue]) -> None:
        held = _int(of, S.EVICTED_BLOCKS) * _int(of, S.EVICTED_IDLE)
        if engine in self._block_bytes:
            self._board.add(M.STRANDED, held * self._block_bytes[engine])
        else:
            self._unsized[engine] = self._unsized.get(engine, 0) + held

    def _transfer(self, transfer: str, span: Span, ids: Ids | None) -> None:
        of = span.attributes
        who = (
            transfer,
            str(of.get(S.KV_CONNECTOR.key, "unknown")),
            str(of.get(S.KV_TIER.key, "external")),
        )
        self._board.add(M.KV_TRANSFER_BYTES, _int(of, S.KV_BYTES), *who)
        self._board.add(M.KV_TRANSFER_TOKENS, _int(of, S.KV_TOKENS), *who)
        # Of a transfer that outlives its response the part that has the end says how long it was.
        if (took := _int(of, S.KV_DURATION)) > 0:
            self._histograms.record(M.KV_TRANSFER_DURATION, took * 1e-9, ids, *who)


def _int(of: Mapping[str, AttributeValue], attribute: S.Attribute) -> int:
    value = of.get(attribute.key)
    return value if isinstance(value, int) else 0
