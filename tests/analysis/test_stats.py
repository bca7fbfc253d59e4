"""Percentiles by nearest rank, and unions of intervals, on values worked out by hand."""

import duckdb
import pytest

from vllm_codesign.analysis.intervals import covered_ns
from vllm_codesign.analysis.stats import Stat, percentile, summarize


@pytest.mark.parametrize(
    ("count", "p50", "p95"),
    [(1, 1, 1), (2, 1, 2), (3, 2, 3), (5, 3, 5), (20, 10, 19), (21, 11, 20), (100, 50, 95)],
)
def test_nearest_rank(count: int, p50: int, p95: int) -> None:
    values = list(range(1, count + 1))
    assert summarize(values[::-1]) == Stat(count, (count + 1) / 2, p50, p95)


def test_duckdb_agrees() -> None:
    values = [float(v * 37 % 101) for v in range(60)]
    (answer,) = duckdb.execute(
        "SELECT quantile_disc(v, [0.5, 0.95]) FROM (SELECT unnest(?) AS v)", [values]
    ).fetchone()
    assert answer == [percentile(sorted(values), 0.5), percentile(sorted(values), 0.95)]


def test_nothing_is_not_zero() -> None:
    assert summarize([]) is None


@pytest.mark.parametrize(
    ("intervals", "want"),
    [
        ([], 0),
        ([(0, 10)], 10),
        ([(0, 10), (5, 20)], 20),
        ([(0, 10), (2, 3), (10, 12)], 12),
        ([(30, 40), (0, 10)], 20),
        ([(-50, 10), (95, 500)], 15),
        ([(200, 300), (-20, -10)], 0),
        ([(5, 5), (7, 6)], 0),
    ],
)
def test_union_within_bounds(intervals: list[tuple[int, int]], want: int) -> None:
    assert covered_ns(intervals, (0, 100)) == want
