"""Which metrics and labels an expression asks for."""

from __future__ import annotations

import pytest

from dashboards import queries
from dashboards.promql import Grouping, Selector, groupings, selectors
from vllm_codesign.semconv import metrics as M


def test_selectors_in_order() -> None:
    expression = 'sum by (a) (rate(x_total{a="1", b=~"2|3"}[5m])) / on(a) group_left y > bool 0.5'
    assert selectors(expression) == [
        Selector("x_total", (("a", "=", "1"), ("b", "=~", "2|3"))),
        Selector("y", ()),
    ]


def test_what_stands_in_strings_and_ranges_is_no_metric() -> None:
    found = selectors('label_replace(a:b{c!~"d{e}"}[$__rate_interval], "f", "$1", "g", "(.*)")')
    assert found == [Selector("a:b", (("c", "!~", "d{e}"),))]


def test_a_selector_without_a_name() -> None:
    assert selectors('{job="codesign"}') == [Selector("", (("job", "=", "codesign"),))]


def test_groupings_before_and_behind_their_operand() -> None:
    assert groupings("max by (a, b) (x + y) / sum(rate(z[1m])) by (c) + u") == [
        Grouping(("a", "b"), ("x", "y")),
        Grouping(("c",), ("z",)),
    ]


def test_no_query_is_made_for_what_a_metric_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"codesign\.pool\.threads has no"):
        queries.own(M.POOL_THREADS, {M.PHASE: "prefill"})
    with pytest.raises(ValueError, match="has the series"):
        queries.own(M.PHASE_DURATION)
    with pytest.raises(KeyError, match="vllm:num_requests_swapped"):
        queries.vllm("num_requests_swapped")
    with pytest.raises(ValueError, match=r"vllm:num_requests_running has no \{'arm'\}"):
        queries.vllm("num_requests_running", {"arm": "hbm"})
