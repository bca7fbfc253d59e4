"""A scenario's accounting: parts of the whole time and of the time to the first token."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.accounting.cases import STEP_NS, in_engine, member, span, step, trace
from vllm_codesign import semconv as S
from vllm_codesign.accounting import timelines
from vllm_codesign.analysis.accounts import Gathered
from vllm_codesign.model.trace import Span

MS = 1_000_000


def _because(span: Span, **reasons: int) -> Span:
    """A wait in the queue, with the time under each reason."""
    times = {f"codesign.queue.{reason}_ns": ns for reason, ns in reasons.items()}
    return replace(span, attributes={**span.attributes, **times})


def test_the_time_to_the_first_token_has_the_parts_of_that_time_alone() -> None:
    first = step(1, 1000, members=(member(phase="prefill"),))
    second = step(2, 1000 + STEP_NS + 7, before=7, members=(member(),))
    request = trace(
        900,
        second.end_ns + 10,
        span(S.TOKENIZE_WAIT.name, 900, 960),
        in_engine(S.KV_LOAD.name, 960, 980),
        _because(in_engine(S.ENGINE_QUEUE.name, 980, 1000), kv_lookup=15, other=5),
        in_engine(S.PREFILL.name, 1000, first.end_ns),
        in_engine(S.DECODE.name, first.end_ns, second.end_ns),
    )
    until = first.end_ns - 900
    root = replace(
        request.root,
        attributes={**request.root.attributes, S.RESPONSE_TTFC.key: until / 1e9},
    )
    engines = timelines([first, second])
    gathered = Gathered()
    gathered.take(replace(request, root=root), engines)
    found = gathered.summary(engines, strip=False)

    assert found is not None
    assert found.ttft is not None
    assert found.ttft.mean * MS == pytest.approx(until)
    assert sum(stat.mean for stat in found.ttft_parts.values()) == pytest.approx(found.ttft.mean)
    assert found.ttft_parts["kv.load"].mean * MS == pytest.approx(20)
    assert found.ttft_parts["frontend.wait"].mean * MS == pytest.approx(60)
    assert found.ttft_parts["device.prefill"].mean * MS == pytest.approx(60)
    assert "device.decode" not in found.ttft_parts
    assert found.parts["device.decode"].mean * MS == pytest.approx(60)
    assert list(found.queued) == ["kv_lookup", "other"]
    assert found.queued["kv_lookup"] * MS == pytest.approx(15)


def test_without_chunks_nothing_is_said_of_a_first_one() -> None:
    gathered = Gathered()
    gathered.take(trace(900, 1000, span(S.TOKENIZE_WAIT.name, 900, 960)), {})
    found = gathered.summary({}, strip=False)

    assert found is not None
    assert found.ttft is None
    assert found.ttft_parts == {}


def test_the_pool_is_as_large_as_the_spans_say() -> None:
    gathered = Gathered()
    sizes: list[dict[str, int]] = [{}, {S.POOL_SIZE.key: 4}, {S.POOL_SIZE.key: 3}]
    for size in sizes:
        gathered.take(trace(900, 1000, span(S.TOKENIZE_WAIT.name, 900, 960, **size)), {})
    found = gathered.summary({}, strip=False)

    assert found is not None
    assert found.pool_threads == 4
    assert found.plans_ahead is None
    assert found.settings(None).threads == 4
    unsaid = Gathered()
    unsaid.take(trace(900, 1000, span(S.TOKENIZE_WAIT.name, 900, 960)), {})
    none = unsaid.summary({}, strip=False)
    assert none is not None
    assert none.pool_threads is None


@pytest.mark.parametrize(("every", "ahead"), [(STEP_NS, False), (STEP_NS - 20, True)])
def test_a_hundred_steps_say_whether_they_are_planned_ahead(every: int, ahead: bool) -> None:
    made = [step(n, 1000 + n * every) for n in range(1, 102)]
    gathered = Gathered()
    gathered.take(trace(900, 1000, span(S.TOKENIZE_WAIT.name, 900, 960)), {})
    whole, few = timelines(made), timelines(made[:100])
    for engines, wanted in ((whole, ahead), (few, None)):
        found = gathered.summary(engines, strip=False)
        assert found is not None
        assert found.plans_ahead is wanted


@pytest.mark.parametrize(
    ("count", "ahead", "wanted"),
    [
        (2000, {1000}, False),
        (2000, set(range(2, 2002)) - {1000}, True),
        (100, set(range(51)), False),
    ],
)
def test_most_steps_say_whether_they_are_planned_ahead(
    count: int, ahead: set[int], wanted: bool
) -> None:
    at, made = 1000, [step(1, 1000)]
    for n in range(1, count + 1):
        at += STEP_NS - 20 if n in ahead else STEP_NS
        made.append(step(n + 1, at))
    gathered = Gathered()
    gathered.take(trace(900, 1000, span(S.TOKENIZE_WAIT.name, 900, 960)), {})
    found = gathered.summary(timelines(made), strip=False)
    assert found is not None
    assert found.plans_ahead is wanted
