"""What one request's trace adds: every request, whatever is sampled."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_codesign import semconv as S
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.exporter.metrics.cache import CacheMetrics
from vllm_codesign.exporter.metrics.histograms import Histograms, Ids
from vllm_codesign.exporter.metrics.models import Models
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span
from vllm_codesign.semconv import metrics as M

_S = 1e-9
_PARTS = tuple((part.value, f"codesign.part.{part.value}_ns") for part in S.Part)
_REASONS = tuple(
    (reason.value, each.key)
    for reason, each in zip(S.QueueReason, S.QUEUE_REASON_TIMES, strict=True)
)
MAX_ERROR_TYPES = 64


class RequestMetrics:
    """Takes traces as they are handed out, late ones too: what outlives a response adds phases,
    but is no request."""

    def __init__(self, board: Board, histograms: Histograms) -> None:
        self._board = board
        self._histograms = histograms
        self._models = Models()
        self._errors: set[str] = set()
        self.cache = CacheMetrics(board, histograms)

    def take(self, trace: RequestTrace, kept: bool) -> None:
        """One trace; `kept`: it can be looked up somewhere."""
        root, of = trace.root, trace.root.attributes
        outcome = str(of.get(S.OUTCOME.key, ""))
        model = self._models.name(of.get(S.REQUEST_MODEL.key), _served(of, outcome))
        ids = self._histograms.ids(root, kept)
        if not root.links:
            self._board.add(M.REQUESTS, 1, model, outcome)
            input_tokens, output_tokens = _tokens(trace)
            self._board.add(M.TOKENS_USED, input_tokens, model, "input")
            self._board.add(M.TOKENS_USED, output_tokens, model, "output")
        if root.kind == "server":
            self._server(root, ids, model)
        if outcome == S.Outcome.COMPLETED.value:
            self._accounting(of, model)
        who = _gen_ai(of, model)
        root = trace.root
        for span in trace.children:
            cut = root.kind == "server" and span.end_ns >= root.end_ns
            self._phase(span, ids, model, who, cut)
        self.cache.take(trace, ids)

    def _server(self, root: Span, ids: Ids | None, model: str) -> None:
        of, record = root.attributes, self._histograms.record
        who = _gen_ai(of, model)
        error = self._error(of.get(S.ERROR_TYPE.key))
        record(M.REQUEST_DURATION, root.duration_ns * _S, ids, *who, error)
        first = of.get(S.RESPONSE_TTFC.key)
        # A stream that never had a token has an error for its first chunk.
        if isinstance(first, float) and of.get(S.STREAMING.key) and _int(of, S.USAGE_OUTPUT_TOKENS):
            record(M.TIME_TO_FIRST_TOKEN, first, ids, *who)

    def _error(self, kind: AttributeValue | None) -> str | None:
        if not isinstance(kind, str):
            return None
        if kind not in self._errors and len(self._errors) >= MAX_ERROR_TYPES:
            return "_OTHER"  # the convention's word for it
        self._errors.add(kind)
        return kind

    def _accounting(self, of: Mapping[str, AttributeValue], model: str) -> None:
        if S.HOST_EXPOSED.key not in of:
            return
        for part, key in _PARTS:
            if isinstance(ns := of.get(key), int):
                self._board.add(M.PART_TIME, ns, model, part)
        self._board.add(M.HOST_TIME, _int(of, S.HOST_EXPOSED), model, "exposed")
        self._board.add(M.HOST_TIME, _int(of, S.HOST_HIDDEN), model, "hidden")
        if worst := of.get(S.BOTTLENECK.key):
            self._board.add(M.BOTTLENECKS, 1, model, str(worst))

    def _phase(
        self, span: Span, ids: Ids | None, model: str, who: tuple[str, str, str], cut: bool
    ) -> None:
        record = self._histograms.record
        record(M.PHASE_DURATION, span.duration_ns * _S, ids, model, span.name)
        if span.name == S.ENGINE_QUEUE.name:
            for reason, key in _REASONS:
                if isinstance(ns := span.attributes.get(key), int):
                    self._board.add(M.QUEUE_TIME, ns, model, reason)
        elif span.name == S.DECODE.name:
            # One that the response's end cut short still has the tokens of all of it.
            after_first = _int(span.attributes, S.TOKENS) - 1
            if after_first > 0 and not cut:
                each = span.duration_ns * _S / after_first
                record(M.TIME_PER_OUTPUT_TOKEN, each, ids, *who)


def _served(of: Mapping[str, AttributeValue], outcome: str) -> bool:
    """Whether an engine had the request (then its tokens are known, few as they may be), or it
    was answered all the same."""
    return S.USAGE_INPUT_TOKENS.key in of or outcome == S.Outcome.COMPLETED.value


def _gen_ai(of: Mapping[str, AttributeValue], model: str) -> tuple[str, str, str]:
    operation = str(of.get(S.OPERATION_NAME.key, "generate_content"))
    return operation, str(of.get(S.PROVIDER_NAME.key, "vllm")), model


def _tokens(trace: RequestTrace) -> tuple[int, int]:
    """Of the prompt and of the answer; from the phases where there is no HTTP request."""
    of = trace.root.attributes
    if trace.root.kind == "server":
        return _int(of, S.USAGE_INPUT_TOKENS), _int(of, S.USAGE_OUTPUT_TOKENS)
    prompt = sum(
        _int(span.attributes, each)
        for span in trace.named(S.PREFILL.name)
        for each in (S.PREFILL_COMPUTED, S.KV_TOKENS_HIT_HBM, S.KV_TOKENS_HIT_EXTERNAL)
    )
    return prompt, sum(_int(span.attributes, S.TOKENS) for span in trace.named(S.DECODE.name))


def _int(of: Mapping[str, AttributeValue], attribute: S.Attribute) -> int:
    value = of.get(attribute.key)
    return value if isinstance(value, int) else 0
