"""Two hundred requests of every kind, at eight clients, on a real server."""

from __future__ import annotations

import pytest

from tests.support.checks import (
    check_coverage,
    check_endings,
    check_engine_spans,
    check_nesting,
)
from tests.support.mixed_load import Sent
from tests.support.serving import Serving, Traces, wait_until, wait_until_closed
from vllm_codesign import semconv as S

pytestmark = pytest.mark.vllm

Mixed = tuple[list[Sent], Traces]


def test_one_trace_each_with_the_right_outcome_and_parent(mixed: Mixed) -> None:
    check_endings(*mixed)


def test_every_span_lies_inside_its_parent(mixed: Mixed) -> None:
    check_nesting(mixed[1])


def test_one_set_of_engine_spans_per_choice_and_the_tokens_of_vllms_own_usage(
    mixed: Mixed,
) -> None:
    check_engine_spans(*mixed)


def test_the_children_cover_the_root(mixed: Mixed) -> None:
    p50, p5 = check_coverage(*mixed)
    print(f"coverage: p50 {p50:.4f}, p5 {p5:.4f}")


def test_only_known_spans_and_attributes_are_written(mixed: Mixed) -> None:
    known = {kind.name: {a.key for a in kind.attributes} for kind in S.SPANS}
    server = {a.key for a in S.SERVER.attributes}
    for trace in mixed[1].all:
        for span in trace.spans:
            allowed = server if span.kind == "server" else known[span.name]
            assert set(span.attributes) <= allowed, (span.name, set(span.attributes) - allowed)


def test_what_outlives_a_response_is_linked_and_closed(mixed: Mixed) -> None:
    _, traces = mixed
    for trace in traces.all:
        if trace.root.name == S.ENGINE_REQUEST.name:
            assert len(trace.root.links) == 1
            linked = traces.one(f"{trace.root.links[0].trace_id:032x}")
            assert trace.root.start_ns >= linked.root.end_ns


def test_nothing_is_left_open_or_lost(mixed: Mixed, serving: Serving) -> None:
    wait_until_closed(serving.session)
    wait_until(
        lambda: serving.capture.load().counters.get("requests", 0) >= len(mixed[0]),
        30,
        "run.json counts the requests",
    )
    run = serving.capture.load()
    assert run.drops == {}
    assert run.counters["hook_errors"] == 0
    assert run.counters["records_lost"] == 0
    assert run.counters["requests_lost"] == 0


def test_required_hooks_are_installed(mixed: Mixed, serving: Serving) -> None:
    statuses: dict[str, set[str]] = {}
    for row in serving.capture.load().hooks:
        statuses.setdefault(row.row, set()).add(row.status)
    never = {row for row, seen in statuses.items() if seen <= {"missing", "signature_changed"}}
    assert not never, never
