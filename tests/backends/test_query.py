"""Times and ids as people write them, and which requests they mean."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support import traces
from vllm_codesign.backends.query import Query, parse_time, parse_trace_id
from vllm_codesign.model.errors import CodesignError

NOW = 1_795_436_231_000_000_123


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW - 90 * 10**9),
        ("1.5h", NOW - 5_400 * 10**9),
        ("2d", NOW - 172_800 * 10**9),
        ("2026-11-23T10:17:11Z", 1_795_429_031 * 10**9),
        ("2026-11-23T12:17:11.000250+02:00", 1_795_429_031 * 10**9 + 250_000),
        ("2026-11-23T10:17:11", 1_795_429_031 * 10**9),
        ("1795429031", 1_795_429_031 * 10**9),
        ("1795429031.5", 1_795_429_031 * 10**9 + 500_000_000),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_time(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "soon", "10", "5y", "-1h", "2026-13-01"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(CodesignError, match="is no time: write 10m"):
        parse_time(text, NOW)


@pytest.mark.parametrize(
    "text",
    [
        *("99999999999d", "9" * 400 + "d", "25000d", "0001-01-01", "1969-12-31T23:59:59"),
        *("9999-12-31", "2200-01-01", "99999999999", "0001-01-01T00:00:00+23:59"),
    ],
)
def test_a_time_that_nothing_is_of(text: str) -> None:
    with pytest.raises(CodesignError, match="is not between 1970 and 2116: name one between them"):
        parse_time(text, NOW)


def test_trace_ids() -> None:
    assert parse_trace_id("ABCdef") == 0xABCDEF
    for text in ("", "0", "0x1", "g", "1" * 33):
        with pytest.raises(CodesignError, match="is no trace id"):
            parse_trace_id(text)


def test_windows() -> None:
    assert Query(since_ns=3, until_ns=9).window() == (3, 9)
    since, until = Query(until_ns=NOW).window()
    assert (until, until - since) == (NOW, 3_600 * 10**9)
    with pytest.raises(CodesignError, match="nothing lies between"):
        Query(since_ns=9, until_ns=9).window()


def test_which_requests_are_meant() -> None:
    trace = traces.completed(5, NOW, 0)
    assert Query().means(trace)
    assert Query(trace_id=5).means(trace)
    assert not Query(trace_id=6).means(trace)
    assert Query(service="vllm").means(trace)
    assert not Query(service="vll").means(trace)
    assert not Query(service="vllm-engine").means(trace)
    alone = replace(trace, root=replace(trace.root, service="vllm-engine"))
    assert Query(service="vllm").means(alone)
    assert Query(since_ns=NOW, until_ns=NOW).means(trace)
    assert not Query(since_ns=NOW + 1).means(trace)
    assert not Query(until_ns=NOW - 1).means(trace)
