"""The phases of an HTTP request in the API server, apart from its engine requests."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_codesign import semconv as S
from vllm_codesign.exporter.facts import RootFacts
from vllm_codesign.exporter.phase import Phase
from vllm_codesign.model.trace import AttributeValue
from vllm_codesign.recorder.layout import Ending, Job, Kind
from vllm_codesign.recorder.reader import Record


def frontend_phases(root: RootFacts, end: int) -> Iterator[Phase]:
    """Receiving, template, tokenization, the event loop in between, sending.

    `end`: of the root. A job that a vanished client left behind may run past it.
    """
    received = root.get(Kind.ROOT_RECEIVED)
    if received is not None and (reached := received.t1 or received.t0):
        begin = root.one[Kind.ROOT_BEGIN].t0
        attributes: dict[str, AttributeValue] = {S.HTTP_REQUEST_SIZE.key: received.a}
        if received.t0:
            attributes[S.RECEIVE_BODY.key] = max(received.t0 - begin, 0)
        yield Phase(S.HTTP_RECEIVE, begin, reached, attributes)
    for phase in (*_jobs(root), *_event_loop(root)):
        if phase.end <= end:
            yield phase
        elif phase.start < end:
            yield phase.until(end)
    stream, ended = root.get(Kind.ROOT_STREAM), root.get(Kind.ROOT_END)
    if stream is not None:
        yield Phase(
            S.STREAM_SEND,
            stream.t0,
            stream.t1,
            {
                S.CALLS.key: stream.c,
                S.BUSY.key: stream.a,
                S.FIRST_CALL.key: ended.b if ended else 0,
                S.BODY_BYTES.key: stream.b,
            },
        )


def _jobs(root: RootFacts) -> Iterator[Phase]:
    """Each job of the renderer's pool: waiting for a thread, and running in it."""
    batch_after = {record.number - 1: record for record in root.all(Kind.JOB_BATCH)}
    for job in root.all(Kind.JOB):
        pool: dict[str, AttributeValue] = {
            S.POOL_SIZE.key: job.c >> 16,
            S.POOL_AHEAD.key: job.c & 0xFFFF,
        }
        if job.s == Job.TEMPLATE:
            yield Phase(S.TEMPLATE_WAIT, job.t0, job.t1, pool)
            yield Phase(S.TEMPLATE_RENDER, job.t1, job.a, {})
            continue
        run: dict[str, AttributeValue] = {S.TOKENS.key: job.b}
        # The record of a batch follows the job's own in the ring.
        if (batch := batch_after.get(job.number)) is not None:
            run[S.BATCH_SIZE.key] = batch.a
            run[S.BATCH_DURATION.key] = batch.t1 - batch.t0
        yield Phase(S.TOKENIZE_WAIT, job.t0, job.t1, pool)
        yield Phase(S.TOKENIZE_ENCODE, job.t1, job.a, run)


def _event_loop(root: RootFacts) -> Iterator[Phase]:
    """What the request's own coroutine does between two hand-overs, and waits for before."""
    jobs = root.all(Kind.JOB)
    dispatched = [engine.one[Kind.REQ].t0 for engine in root.engines]
    hand_overs = sorted([*(job.t0 for job in jobs), *dispatched])
    received = root.get(Kind.ROOT_RECEIVED)
    if received is not None and received.t1:
        yield from _run(received.t1, hand_overs, "prepare")
    for resumed in root.all(Kind.RESUMED):
        templates = [j.a for j in jobs if j.s == Job.TEMPLATE and j.a <= resumed.t0]
        if templates:
            yield _wait(max(templates), resumed.t0, "rendered")
            yield from _run(resumed.t0, hand_overs, "rendered")
        encoded = [j.a for j in jobs if j.s == Job.TOKENIZE and j.a <= resumed.t1]
        if encoded:
            yield _wait(max(encoded), resumed.t1, "tokenized")
            yield from _run(resumed.t1, sorted(dispatched), "tokenized")
    yield from _respond(root)


def _respond(root: RootFacts) -> Iterator[Phase]:
    returned = [r for e in root.engines if (r := e.get(Kind.REQ_RETURN)) is not None]
    taken = root.all(Kind.TAKEN)
    if not returned or not taken:
        return
    processed, resumed = max(r.a for r in returned), max(r.t0 for r in taken)
    if processed <= resumed:
        yield _wait(processed, resumed, "respond")
    ended: Record | None = root.get(Kind.ROOT_END)
    if ended is not None and ended.s & Ending.COMPLETE and ended.t0 >= resumed:
        yield Phase(S.FRONTEND_RUN, resumed, ended.t0, {S.STAGE.key: "respond"})


def _wait(start: int, end: int, stage: str) -> Phase:
    return Phase(S.FRONTEND_WAIT, start, end, {S.STAGE.key: stage})


def _run(start: int, hand_overs: list[int], stage: str) -> Iterator[Phase]:
    """From `start` to the next hand-over; nothing where there was none (a rejection)."""
    following = next((t for t in hand_overs if t >= start), None)
    if following is not None:
        yield Phase(S.FRONTEND_RUN, start, following, {S.STAGE.key: stage})
