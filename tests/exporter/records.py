"""Hand-written records of requests, in microseconds after `BASE`."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from vllm_codesign.exporter.assemble import Assembler
from vllm_codesign.exporter.build import Builder
from vllm_codesign.model.trace import RequestTrace, Span
from vllm_codesign.recorder.layout import Ending, Field, Job, Kind
from vllm_codesign.recorder.reader import Record

BASE = 5_000_000_000
UNIX = 1_760_000_000_000_000_000
API, ENGINE = 100, 200
TRACE, PARENT, SPAN = 0x1A << 120 | 7, 0xBEEF, 0xCAFE

_numbers = count()


def us(microseconds: float) -> int:
    """A monotonic stamp; 0 stays 0, which means never."""
    return BASE + round(microseconds * 1000) if microseconds else 0


def rec(kind: Kind, key: int, t0: float = 0, t1: float = 0, **more: Any) -> Record:
    """A record whose t0 and t1 are stamps in microseconds after BASE."""
    defaults: dict[str, Any] = {"s": 0, "c": 0, "a": 0, "b": 0, "payload": b""}
    return Record(next(_numbers), kind, key=key, t0=us(t0), t1=us(t1), **{**defaults, **more})


def text(key: int, field: Field, value: str) -> Record:
    return Record(
        next(_numbers), Kind.TEXT, field, 1, key, 0, 0, 0, 0, value.encode().ljust(32, b"\0")
    )


def root_begin(key: int = 1, at: float = 0.001) -> list[Record]:
    parent = rec(Kind.ROOT_PARENT, key, a=SPAN + key - 1, b=PARENT, c=1, s=1)
    return [
        rec(Kind.ROOT_BEGIN, key, at, at + 50, a=500, c=1),
        parent._replace(t0=TRACE >> 64, t1=TRACE & (2**64 - 1)),
        text(key, Field.SESSION_ID, "s-1"),
        rec(Kind.ROOT_RECEIVED, key, at + 100, at + 200, a=500),
        rec(Kind.ROOT_PARAMS, key, a=4602678819172646912, b=-1, s=1)._replace(t0=16, t1=1),
        text(key, Field.MODEL, "tiny"),
        rec(Kind.JOB, key, 250, 260, a=us(300), c=1 << 16, s=Job.TEMPLATE),
        rec(Kind.JOB, key, 350, 500, a=us(900), b=64, c=1 << 16 | 2, s=Job.TOKENIZE),
        rec(Kind.RESUMED, key, 330, 950),
    ]


def root_end(
    key: int = 1, at: float = 9_000, status: int = 200, ending: int = Ending.COMPLETE
) -> list[Record]:
    return [
        rec(Kind.TAKEN, key, 8_800),
        rec(Kind.ROOT_STREAM, key, 1_300, at, a=70_000, b=900, c=5),
        rec(Kind.ROOT_END, key, at, 5_600, a=status, b=20_000, s=ending),
    ]


def dispatched(key: int = 11, root: int = 1, index: int = 0, tokens: int = 64) -> list[Record]:
    return [
        rec(Kind.REQ, key, 1_000, 1_100 + index, a=root, b=40_000, c=tokens, s=index),
        text(key, Field.REQUEST_ID, f"cmpl-{key}"),
        rec(Kind.REQ_SEND, key, 1_110, 1_200),
    ]


def returned(key: int = 11, last: float = 8_500, finish: int = 2) -> list[Record]:
    return [
        rec(Kind.REQ_RETURN, key, last + 50, last + 70, a=us(last + 200), b=900_000, c=4),
        rec(Kind.REQ_OUT, key, 5_500, last, a=4, b=4, s=finish),
        rec(Kind.REQ_DETOKENIZE, key, 5_560, last + 190, a=80_000, b=50_000, c=4),
        Record(
            next(_numbers),
            Kind.ITL,
            0,
            3,
            key,
            0,
            0,
            0,
            0,
            b"".join(n.to_bytes(4, "little") for n in (1000, 900, 1100, 0, 0, 0, 0, 0)),
        ),
    ]


def scheduled(key: int = 11, at: float = 3_000) -> list[Record]:
    return [
        rec(Kind.ENG_PREPROCESS, key, 1_300, 1_350),
        rec(Kind.ENG_QUEUED, key, 1_500, a=64, b=1, c=0),
        rec(Kind.ENG_SCHEDULED, key, at, at + 400, a=48),
        rec(Kind.ENG_LOOKUP, key, at + 20, at + 30, a=64 << 32 | 48, b=10_000, c=1),
        rec(Kind.ENG_ALLOCATE, key, at + 40, at + 60, a=2 << 32 | 1, b=45_000, c=3),
    ]


def finished(key: int = 11, at: float = 8_600, finish: int = 2, preemptions: int = 0) -> Record:
    end = rec(Kind.ENG_FINISHED, key, at, a=3, b=6, c=preemptions, s=finish)
    return end._replace(t1=2)


def api_records() -> list[Record]:
    """Everything the API server writes of one request."""
    return [*root_begin(), *dispatched(), *returned(), *root_end()]


def engine_records() -> list[Record]:
    return [
        rec(Kind.ENG_HEAD, 11, 1_600, s=3),
        *scheduled(),
        rec(Kind.ENG_HEAD, 0, 3_400),
        finished(),
    ]


def assembled(api: list[Record], engine: list[Record]) -> Assembler:
    made = Assembler()
    feed(made, api, engine)
    return made


def feed(assembler: Assembler, api: list[Record], engine: list[Record]) -> None:
    for record in api:
        assembler.take(API, record)
    for record in engine:
        assembler.take(ENGINE, record)


def builder(assembler: Assembler) -> Builder:
    """With ids 1, 2, 3, … and Unix times that end like the monotonic ones."""
    ids: Iterator[int] = count(1)
    return Builder("vllm", lambda t: t - BASE + UNIX, assembler.heads, lambda: next(ids))


def traces_of(api: list[Record], engine: list[Record], final: bool = False) -> list[RequestTrace]:
    assembler = assembled(api, engine)
    return traces(assembler, final)


def traces(assembler: Assembler, final: bool = False) -> list[RequestTrace]:
    at = us(9_000) + 10_000_000_000
    (root,) = assembler.complete(at, final)
    return builder(assembler).request(root, at, final)


def the_trace(api: list[Record], engine: list[Record]) -> RequestTrace:
    (trace,) = traces_of(api, engine)
    assert_sound(trace)
    return trace


def assert_sound(trace: RequestTrace) -> None:
    """Every child lies within its parent, and every parent is there."""
    by_id = {span.span_id: span for span in trace.spans}
    assert len(by_id) == len(trace.spans)
    for span in trace.children:
        parent = by_id[span.parent_id]
        assert parent.start_ns <= span.start_ns <= span.end_ns <= parent.end_ns, span.name
        assert span.trace_id == trace.trace_id


def at(span: Span) -> tuple[float, float]:
    """Start and end in microseconds after BASE."""
    return (span.start_ns - UNIX) / 1000, (span.end_ns - UNIX) / 1000


def short(attributes: Any) -> dict[str, Any]:
    return {key.removeprefix("codesign."): value for key, value in attributes.items()}


IDENTITY = {"request.id": "cmpl-11", "request.index": 0}
