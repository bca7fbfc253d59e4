"""Timelines made by hand and at random, for the tests of the accounting."""

from __future__ import annotations

from dataclasses import replace

from vllm_codesign import semconv as S
from vllm_codesign.model.step import DeviceInterval, Member, RankStep, Step
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span

ENGINE = 4242
ROOT = 77
UNIX = 1_000_000_000_000


def span(name: str, start: int, end: int, **attributes: AttributeValue) -> Span:
    return Span(
        name, "vllm", 1, start * 31 + end, ROOT, start + UNIX, end + UNIX, attributes=attributes
    )


def in_engine(name: str, start: int, end: int, engine: int = ENGINE, request: str = "r1") -> Span:
    found = span(name, start, end)
    return Span(
        found.name,
        found.service,
        found.trace_id,
        found.span_id,
        ROOT,
        found.start_ns,
        found.end_ns,
        attributes={S.ENGINE_PID.key: engine, S.REQUEST_ID.key: request},
    )


def load(start: int, end: int, asynchronous: bool, request: str = "r1") -> Span:
    """A connector loads for a request."""
    found = in_engine(S.KV_LOAD.name, start, end, request=request)
    return replace(found, attributes={**found.attributes, S.KV_ASYNCHRONOUS.key: asynchronous})


def trace(start: int, end: int, *children: Span, level: str = "step") -> RequestTrace:
    root = Span(
        "POST /v1/completions",
        "vllm",
        1,
        ROOT,
        0,
        start + UNIX,
        end + UNIX,
        kind="server",
        attributes={S.MONOTONIC.key: start, S.LEVEL.key: level},
    )
    return RequestTrace(root, children)


def member(span_id: int = ROOT, phase: str = "decode", request: str = "r1") -> Member:
    return Member(1, span_id, request, 1, phase)  # type: ignore[arg-type]


def step(
    number: int,
    start: int,
    *,
    schedule: int = 10,
    reach: int = 5,
    prepare: int = 5,
    model: int = 50,
    between: int = 3,
    sample: int = 10,
    back: int = 4,
    update: int = 6,
    before: int = 0,
    members: tuple[Member, ...] | None = (),
    blocked_by: str = "",
    ranks: int = 1,
) -> Step:
    """A synchronous step, one stretch after the other, that begins at `start`."""
    planned = start + schedule
    entered = planned + reach
    forward = entered + prepare
    computed = forward + model
    sampling = computed + between
    sampled = sampling + sample
    taken = sampled + back
    return Step(
        engine=ENGINE,
        number=number,
        schedule=(start, planned),
        before_ns=before,
        update=(taken, taken + update),
        waited_ns=taken - planned,
        ranks=tuple(
            RankStep(
                rank,
                (entered, computed),
                (forward, computed),
                (sampling, sampled),
                (forward, computed),
                (
                    DeviceInterval(forward, computed, "model", "wall"),
                    DeviceInterval(sampling, sampled, "sample", "wall"),
                ),
            )
            for rank in range(ranks)
        ),
        members=members,
        requests=len(members or ()),
        tokens=len(members or ()),
        blocked_by=blocked_by,
    )


STEP_NS = 93
"""Length of a step made with the defaults: 10 + 5 + 5 + 50 + 3 + 10 + 4 + 6."""
