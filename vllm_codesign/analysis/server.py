"""The server's truth about one request, from the spans of its trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vllm_codesign import semconv
from vllm_codesign.analysis.intervals import covered_ns
from vllm_codesign.model.trace import RequestTrace, Span

Side = Literal["host", "engine", "busy", "sum"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One row of the server's table.

    `side` says whose time it is: `host` and `engine` phases follow one another in a
    request; `busy` is time inside calls spread over the stream, within other phases;
    `sum` is not a phase.
    """

    key: str
    label: str
    side: Side
    brief: str
    span: semconv.SpanKind | None = None


def _span_phase(key: str, label: str, side: Side, kind: semconv.SpanKind) -> Phase:
    brief = f"{kind.name}: time inside the calls"
    if not kind.aggregate:
        brief = f"{kind.name}: {kind.starts} – {kind.ends}"
    return Phase(key, label, side, brief, kind)


PHASES = (
    _span_phase("receive", "receive", "host", semconv.HTTP_RECEIVE),
    _span_phase("template_wait", "template wait", "host", semconv.TEMPLATE_WAIT),
    _span_phase("template_run", "template run", "host", semconv.TEMPLATE_RENDER),
    _span_phase("tokenize_wait", "tokenize wait", "host", semconv.TOKENIZE_WAIT),
    _span_phase("tokenize_run", "tokenize run", "host", semconv.TOKENIZE_ENCODE),
    _span_phase("frontend_wait", "frontend wait", "host", semconv.FRONTEND_WAIT),
    _span_phase("frontend_run", "frontend run", "host", semconv.FRONTEND_RUN),
    _span_phase("dispatch", "dispatch", "host", semconv.ENGINE_DISPATCH),
    _span_phase("queue", "queue", "engine", semconv.ENGINE_QUEUE),
    _span_phase("prefill", "prefill", "engine", semconv.PREFILL),
    _span_phase("decode", "decode", "engine", semconv.DECODE),
    _span_phase("return", "return", "host", semconv.ENGINE_RETURN),
    _span_phase("detokenize", "detokenize (busy)", "busy", semconv.DETOKENIZE),
    _span_phase("send", "send (busy)", "busy", semconv.STREAM_SEND),
    Phase("other", "other", "sum", "what no span covers; aggregates do not count"),
    Phase("total", "total", "sum", "the whole request"),
)


def measure(trace: RequestTrace) -> dict[str, int]:
    """Nanoseconds per phase of `PHASES`, by key.

    Where a request has several engine requests (`n` > 1, several prompts) a phase is the
    union of theirs: time that passed, not work. Phases of different engine requests may
    then overlap, and add up to more than `total`; `other` is exact all the same. A phase
    that the request never reached is 0.
    """
    root = (trace.root.start_ns, trace.root.end_ns)
    by_name: dict[str, list[Span]] = {}
    for span in trace.children:
        by_name.setdefault(span.name, []).append(span)
    times: dict[str, int] = {}
    for phase in PHASES:
        if phase.span is None:
            continue
        spans = by_name.get(phase.span.name, [])
        if phase.span.aggregate:
            times[phase.key] = sum(_busy_ns(span) for span in spans)
        else:
            times[phase.key] = covered_ns([(s.start_ns, s.end_ns) for s in spans], root)
    covered = covered_ns([(s.start_ns, s.end_ns) for s in trace.children if not _many(s)], root)
    times["other"] = trace.root.duration_ns - covered
    times["total"] = trace.root.duration_ns
    return times


def outcome(trace: RequestTrace) -> str:
    """`completed`, `aborted`, `rejected`, `failed`, or `unknown` where nothing says."""
    return str(trace.root.attributes.get(semconv.OUTCOME.key, "unknown"))


def outlived(trace: RequestTrace) -> bool:
    """Whether this is what went on after a response's end, and belongs to another request."""
    return trace.root.name == semconv.ENGINE_REQUEST.name and bool(trace.root.links)


def _many(span: Span) -> bool:
    kind = semconv.SPAN_BY_NAME.get(span.name)
    return kind is not None and kind.aggregate


def _busy_ns(span: Span) -> int:
    busy = span.attributes.get(semconv.BUSY.key, 0)
    return busy if isinstance(busy, int) else 0
