"""What the page's script is told of one request."""

from __future__ import annotations

from dataclasses import replace

from tests.accounting.cases import member, step
from tests.accounting.cases import trace as accounted
from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.report import colours
from vllm_codesign.report.documents import AGGREGATE, MAX_STEPS, Documents


def pairs(found: Documents, flat: list[object]) -> dict[str, object]:
    return {found.names[key]: value for key, value in zip(flat[::2], flat[1::2], strict=True)}  # type: ignore[call-overload]


def test_spans_are_where_they_were() -> None:
    trace = traces.completed(1, traces.EPOCH_NS, wait_ms=30, choices=2)
    made = Documents()
    document = made.document(trace, "conc4", None)
    assert len(document[8]) == len(trace.spans)
    spans = {made.names[s[0]]: s for s in document[8]}
    encode = spans["tokenize.encode"]
    assert (encode[3], encode[4]) == (33 * traces.MS, 10 * traces.MS)
    assert "prefill #1" in spans, "of several choices it says which"
    assert made.names[spans["prefill #1"][1]] == "prefill"
    assert spans["detokenize #0"][5] == AGGREGATE
    told = pairs(made, spans["decode #1"][6])
    assert str(told[S.DECODE_ITL.key]).startswith("5000, 5000")
    assert str(told[S.DECODE_ITL.key]).endswith("…")
    ((event, at, attributes),) = spans["decode #1"][7]
    assert made.names[event] == S.EVENT_PREEMPTED
    assert at == spans["decode #1"][3] + traces.MS
    assert pairs(made, attributes) == {S.EVENT_TOKENS_LOST.key: 16}


def test_each_name_is_written_once() -> None:
    made = Documents()
    for k in range(3):
        made.document(traces.completed(k + 1, traces.EPOCH_NS, wait_ms=0), "", None)
    assert len(made.names) == len(set(made.names))
    assert made.colours[made.names.index("prefill")] == colours.PHASES["prefill"]


def test_numbers_that_javascript_would_round_are_text() -> None:
    trace = traces.completed(1, traces.EPOCH_NS, wait_ms=0)
    attributes = {"a": 2**53 - 1, "b": 2**53, "c": True, "d": 0.5}
    made = Documents()
    document = made.document(
        replace(trace, root=replace(trace.root, attributes=attributes)), "", None
    )
    found = pairs(made, document[8][0][6])
    assert found == {"a": 2**53 - 1, "b": str(2**53), "c": "true", "d": "0.5"}


def test_steps_are_placed_on_the_requests_own_axis() -> None:
    request = accounted(900, 3_000)
    one = step(7, 1_000, members=(member(),))
    (made,) = [Documents().document(request, "", [one])]
    assert made[9] == 1
    assert made[10] == [[7, 1, 1, [120, 50, 173, 10], [115, 5], [100, 10], [187, 6]]]
    many = [replace(one, number=n) for n in range(MAX_STEPS + 5)]
    made = Documents().document(request, "", many)
    assert (made[9], len(made[10])) == (MAX_STEPS + 5, MAX_STEPS)


def test_steps_that_nobody_looked_for_are_not_none_at_all() -> None:
    request = accounted(900, 3_000)
    assert Documents().document(request, "", None)[10] is None
    assert Documents().document(request, "", [])[10] == []
    old = RequestTrace(replace(request.root, attributes={}), ())
    assert Documents().document(old, "", [step(1, 1_000)])[10] is None, "it has no place for them"


def test_a_load_says_tier_and_tokens() -> None:
    trace = traces.completed(1, traces.EPOCH_NS, wait_ms=30)
    prefill = trace.named(S.PREFILL.name)[0]
    load = replace(
        prefill, name=S.KV_LOAD.name, attributes={S.KV_TIER.key: "host", S.KV_TOKENS.key: 1_280}
    )
    made = Documents()
    document = made.document(RequestTrace(trace.root, (*trace.children, load)), "", None)
    assert made.names[document[8][-1][0]] == "kv.load (host, 1,280 tokens)"
    assert colours.of_span("kv.load") == "#56b4e9"
