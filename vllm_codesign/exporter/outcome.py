"""How a request ended."""

from __future__ import annotations

from vllm_codesign.exporter.facts import EngineFacts, RootFacts
from vllm_codesign.recorder.layout import Ending, Kind
from vllm_codesign.semconv import Outcome

# vllm.v1.engine.FinishReason by its number, the same in both versions.
REASONS = ("stop", "length", "abort", "error", "repetition")
"""Why a request finished, by `FinishReason`'s number."""


def finish_reason(engine: EngineFacts) -> str:
    """As the API server saw it, else as the scheduler did; empty where neither did."""
    for kind in (Kind.REQ_OUT, Kind.ENG_FINISHED):
        record = engine.get(kind)
        if record is not None and 0 < record.s <= len(REASONS):
            return REASONS[record.s - 1]
    return ""


def outcome_of_engine(engine: EngineFacts) -> Outcome:
    if Kind.REQ_FAILED in engine.one:
        return Outcome.FAILED
    reason = finish_reason(engine)
    if reason == "abort":
        return Outcome.ABORTED
    return Outcome.COMPLETED if reason and reason != "error" else Outcome.FAILED


def outcome_of_root(root: RootFacts) -> Outcome:
    """Not the status: a stream that fails half way has long sent its 200."""
    ended = root.get(Kind.ROOT_END)
    if ended is None:
        return Outcome.FAILED  # the server died under it
    if ended.s & Ending.DISCONNECTED and not ended.s & Ending.COMPLETE:
        return Outcome.ABORTED
    if any(outcome_of_engine(e) is Outcome.FAILED for e in root.engines if _answered(e)):
        return Outcome.FAILED
    if 400 <= ended.a < 500 or (ended.a == 503 and not root.engines):
        return Outcome.REJECTED
    if ended.a >= 500 or ended.s & Ending.RAISED or not ended.s & Ending.COMPLETE:
        return Outcome.FAILED
    if not root.engines and Kind.ROOT_PARAMS in root.one and root.one[Kind.ROOT_PARAMS].s & 1:
        return Outcome.REJECTED  # a stream whose only event is an error
    return Outcome.COMPLETED


def _answered(engine: EngineFacts) -> bool:
    """Whether the API server has the engine's last word on it (not so in background work)."""
    return Kind.REQ_OUT in engine.one or Kind.REQ_FAILED in engine.one
