"""A step as a trace and back: nothing is lost and nothing added, through a capture neither."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.accounting.step_trace import step_of, trace_of
from vllm_codesign.model.step import ConnectorCall, DeviceInterval, Member, RankStep, Step, Stretch
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.store.reader import Reading, read_steps, read_traces
from vllm_codesign.store.writer import SegmentWriter

AT = 5 * 10**12
OFFSET = 1_760_000_000_123_456_789 - AT

lengths = st.integers(0, 10**7)
counts = st.integers(0, 2**31)
ids = st.integers(1, 2**64 - 1)


@st.composite
def stretches(draw: st.DrawFn) -> Stretch:
    start = AT + draw(st.integers(-(10**7), 10**8))
    return (start, start + draw(lengths))


@st.composite
def rank_steps(draw: st.DrawFn, rank: int) -> RankStep:
    """What a worker did, as far as its records came: device times stand with the host's."""
    execute = draw(st.none() | stretches())
    forward = draw(st.none() | stretches()) if execute is not None else None
    sample = draw(st.none() | stretches())
    source = draw(st.sampled_from(["events", "wall"]))
    works = [
        *(["model"] if forward is not None and draw(st.booleans()) else []),
        *(["sample"] if sample is not None and draw(st.booleans()) else []),
        *(["draft"] if sample is not None and draw(st.booleans()) else []),
    ]
    device = tuple(DeviceInterval(*draw(stretches()), work, source) for work in works)
    alone = draw(st.none() | stretches()) if forward is not None else None
    if (execute, sample) == (None, None):
        sample = draw(stretches())
    loads = st.builds(lambda at: ConnectorCall("load", *at), stretches())
    saves = st.builds(
        lambda at, load_ns, save_ns: ConnectorCall("save", *at, load_ns, save_ns),
        stretches(),
        lengths,
        lengths,
    )
    calls = loads | saves
    # One thread makes them, so no two begin at once.
    drawn = draw(st.lists(calls, max_size=3, unique_by=lambda call: call.start_ns))
    connector = tuple(sorted(drawn, key=lambda call: call.start_ns))
    return RankStep(rank, execute, forward, sample, alone, device, connector)


members = st.builds(
    Member,
    st.integers(1, 2**128 - 1),
    ids,
    st.text(st.characters(codec="utf-8"), max_size=40),
    counts,
    st.sampled_from(["prefill", "decode"]),
)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    start = AT + draw(lengths)
    planned = start + draw(lengths)
    update = None
    if draw(st.booleans()):
        taken = planned + draw(lengths)
        update = (taken, taken + draw(lengths))
    allocate = draw(st.none() | st.just((start, planned)))
    drafted = draw(counts)
    return Step(
        engine=draw(st.integers(1, 2**22)),
        number=draw(st.integers(1, 2**40 - 1)),
        schedule=(start, planned),
        before_ns=draw(lengths),
        update=update,
        waited_ns=draw(lengths) if update else 0,
        ranks=tuple(draw(rank_steps(rank)) for rank in range(draw(st.integers(0, 3)))),
        members=draw(st.none() | st.lists(members, max_size=5).map(tuple)),
        requests=draw(counts),
        tokens=draw(counts),
        waiting=draw(counts),
        running=draw(counts),
        blocked_by=draw(st.sampled_from(["", *S.QueueReason])),
        allocate=allocate,
        allocate_ns=draw(lengths) if allocate else 0,
        allocate_calls=draw(counts) if allocate else 0,
        preempted=draw(counts),
        drafted=drafted,
        accepted=draw(counts) if drafted else 0,
    )


def told(step: Step, trace_id: int = 1) -> RequestTrace:
    span_ids = count(trace_id << 20)
    return trace_of(step, "vllm", trace_id, lambda: next(span_ids), lambda at: at + OFFSET)


@settings(deadline=None)
@given(steps())
def test_a_step_comes_back_from_its_trace(step: Step) -> None:
    trace = told(step)
    assert step_of(trace.spans) == step
    assert step_of(tuple(reversed(trace.spans))) == step


@settings(deadline=None)
@given(steps())
def test_its_trace_is_sound(step: Step) -> None:
    trace = told(step)
    by_id = {span.span_id: span for span in trace.spans}
    assert len(by_id) == len(trace.spans)
    kinds = {kind.name: kind for kind in S.STEP_SPANS}
    for span in trace.spans:
        allowed = {attribute.key for attribute in kinds[span.name].attributes}
        assert set(span.attributes) <= allowed, span.name
        assert span.start_ns <= span.end_ns <= trace.root.end_ns
        assert span.service == "vllm" + kinds[span.name].service
    assert all(span.parent_id in by_id for span in trace.children)
    assert len(trace.root.links) == len(step.members or ())


@settings(max_examples=15, deadline=None)  # reading a capture takes what it takes
@given(st.lists(steps(), max_size=8, unique_by=lambda step: (step.engine, step.number)))
def test_steps_come_back_from_a_capture(made: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        capture = traces.write_capture(Path(folder))
        writer = SegmentWriter(capture.traces)
        for number, step in enumerate(made):
            writer.add(told(step, 0x57E9 << 64 | number + 1).spans, traces.RESOURCE)
        writer.close()
        reading = Reading()
        found = {(step.engine, step.number): step for step in read_steps(capture, reading)}
        assert found == {(step.engine, step.number): step for step in made}
        assert list(read_traces(capture, reading)) == traces.traces(), "steps are no requests"
        assert reading == Reading()


def test_what_is_no_step_is_none() -> None:
    trace = traces.traces()[0]
    assert step_of(trace.spans) is None
    assert step_of(()) is None
    assert step_of(told(Step(1, 1, (AT, AT))).children) is None
