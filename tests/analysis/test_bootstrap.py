"""Intervals of differences: by hand, by their properties, and by how often they are right."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vllm_codesign.analysis import bootstrap
from vllm_codesign.analysis.bootstrap import difference, of_one, resampled

VALUES = st.floats(0, 100, allow_nan=False, width=32)
ARM = st.lists(st.lists(VALUES, max_size=6), max_size=5)
_SERVERS = st.lists(st.lists(VALUES, min_size=1, max_size=6), min_size=3, max_size=5)
_REQUESTS = st.lists(st.lists(VALUES, min_size=2, max_size=6), min_size=1, max_size=5)
ARMS = st.one_of(st.tuples(_SERVERS, _SERVERS), st.tuples(_REQUESTS, _REQUESTS))
"""Two that say how they vary, by servers or by requests."""
QUICK = {"draws": 400}


def flat(arm: list[list[float]]) -> list[float]:
    return list(itertools.chain.from_iterable(arm))


def enough(base: list[list[float]], other: list[list[float]]) -> bool:
    return all(sum(map(bool, side)) >= 3 for side in (base, other))


def says_how_it_varies(base: list[list[float]], other: list[list[float]]) -> bool:
    """Three servers of each arm, or two requests to each server."""
    if enough(base, other):
        return True
    return any(base) and any(other) and all(len(v) != 1 for v in (*base, *other))


def arm(generator: np.random.Generator, mean: float, repeats: int, between: float, within: float):
    """Requests of several servers, each of which is off by something of its own."""
    return [
        list(generator.normal(mean + generator.normal(0, between), within, 20))
        for _ in range(repeats)
    ]


@settings(deadline=None, max_examples=60)
@given(ARM, ARM, st.sampled_from(["mean", "median"]))
def test_the_interval_is_about_the_difference(base, other, statistic) -> None:
    found = difference(base, other, statistic, **QUICK)
    if not says_how_it_varies(base, other):
        assert found is None
        return
    of = {"mean": np.mean, "median": np.median}[statistic]
    assert found.value == pytest.approx(of(flat(other)) - of(flat(base)))
    assert found.low <= found.high
    assert found == difference(base, other, statistic, **QUICK)  # the seed is fixed
    assert found.drawn == ("repeats" if enough(base, other) else "requests")


@settings(deadline=None, max_examples=40)
@given(ARMS, st.integers(-50, 50), st.sampled_from([0.5, 2.0, 8.0]))
def test_it_moves_and_grows_with_the_values(arms, shift, scale) -> None:
    base, other = arms
    found = difference(base, other, **QUICK)
    moved = difference(base, [[v * scale + shift for v in one] for one in other], **QUICK)
    both = difference(
        [[v * scale + shift for v in one] for one in base],
        [[v * scale + shift for v in one] for one in other],
        **QUICK,
    )
    near = {"rel": 1e-6, "abs": 1e-6}
    assert moved.value == pytest.approx(
        scale * np.mean(flat(other)) + shift - np.mean(flat(base)), **near
    )
    assert (both.value, both.low, both.high) == pytest.approx(
        (scale * found.value, scale * found.low, scale * found.high), **near
    )


@pytest.mark.parametrize("repeats", [3, 6])
@pytest.mark.parametrize("between", [0.0, 2.0])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_it_holds_the_truth_95_times_in_100(repeats: int, between: float, shift: float) -> None:
    """Whether servers differ or not; without a difference this is how often it is noise."""
    generator = np.random.default_rng(20260514)
    held = 0
    for _ in range(400):
        base = arm(generator, 40.0, repeats, between, 3.0)
        other = arm(generator, 40.0 + shift, repeats, between, 3.0)
        found = difference(base, other, draws=500)
        held += found.low <= shift <= found.high
    assert 0.92 <= held / 400 <= 0.985


def test_medians_are_held_as_well() -> None:
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(300):
        base, other = (arm(generator, 40.0, 3, 1.0, 3.0) for _ in range(2))
        held += difference(base, other, "median", draws=500).within_noise
    assert 0.91 <= held / 300 <= 0.99


def test_many_requests_do_not_stand_for_many_servers() -> None:
    """Servers that differ by more than the arms: requests alone would call it sure."""
    base = [[10.0, 10.1] * 50, [20.0, 20.1] * 50, [30.0, 30.1] * 50]
    other = [[12.0, 12.1] * 50, [22.0, 22.1] * 50, [33.0, 33.1] * 50]
    assert difference(base, other).within_noise
    alone = difference([flat(base)], [[v + 9 for v in flat(other)]])
    assert alone.low > 0
    assert alone.within_noise is None, "it is not for requests alone to say"


def test_a_clear_difference_is_none_of_noise() -> None:
    base = [[10.0, 11.0], [10.5, 11.5], [10.0, 10.6]]
    found = difference(base, [[v + 5 for v in one] for one in base])
    assert found.value == pytest.approx(5)
    assert 2 < found.low < 5 < found.high < 8
    assert not found.within_noise


def test_values_that_do_not_vary() -> None:
    same = [[3.0, 3.0]] * 3
    found = difference(same, same)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert found.within_noise
    assert not difference(same, [[4.0, 4.0]] * 3).within_noise


def test_one_value_says_nothing() -> None:
    assert difference([[1.0]], [[1.0, 2.0]]) is None
    assert difference([], [[1.0, 2.0]]) is None
    assert difference([[], [1.0, 2.0]], [[1.0, 2.0]]).drawn == "requests"


def test_one_request_to_a_server_cannot_be_drawn_again_within_it() -> None:
    assert difference([[10.0], [20.0]], [[15.0], [14.0]]) is None
    assert difference([[10.0, 11.0], [20.0]], [[15.0, 14.0]]) is None
    assert difference([[10.0]] * 3, [[15.0], [14.0], [13.0]]).drawn == "repeats"


def test_two_servers_do_not_tell_how_servers_differ() -> None:
    """Why no verdict is made of requests alone: where servers differ as much as requests do, the
    interval misses the truth more often than not."""
    generator = np.random.default_rng(11)
    held = 0
    for _ in range(200):
        base, other = (arm(generator, 40.0, 2, 3.0, 3.0) for _ in range(2))
        found = difference(base, other, draws=500)
        assert found.drawn == "requests"
        held += found.low <= 0 <= found.high
    assert held / 200 < 0.5


def test_welchs_degrees_of_freedom() -> None:
    assert bootstrap._freedom([0.0, 0.0], [3, 3]) == math.inf
    # Equal spreads: as many as both have together.
    assert bootstrap._freedom([1.0, 1.0], [3, 3]) == pytest.approx(4)
    assert bootstrap._freedom([1.0, 0.0], [3, 3]) == pytest.approx(2)


def test_the_interval_of_one_sample() -> None:
    # Of 101 values 0...100 the median's 95 % order statistics are near ranks 41 and 61.
    value, low, high = of_one([float(n) for n in range(101)])
    assert value == 50
    assert 37 <= low <= 43
    assert 57 <= high <= 63
    mean, low, high = of_one([0.0, 10.0] * 200, "mean")
    assert mean == 5
    assert high - low == pytest.approx(2 * 1.96 * 5 / math.sqrt(400), rel=0.1)
    with pytest.raises(ValueError, match="no values"):
        of_one([])


def batches(
    generator: np.random.Generator, count: int, mean: float, between: float
) -> list[list[float]]:
    """Batches of one server, each of which is off by something of its own."""
    return [
        list(generator.normal(mean + generator.normal(0, between), 2.0, 4)) for _ in range(count)
    ]


def test_whole_batches_are_drawn_where_there_are_enough() -> None:
    generator = np.random.default_rng(1)
    many = batches(generator, 5, 10.0, 3.0)
    few = many[:4]
    assert resampled([many], [many]).drawn == "batches"
    assert resampled([many], [many]).units == (5, 5)
    assert resampled([many, many], [many]).units == (10, 5)
    assert resampled([many], [few]).drawn == "requests"
    assert resampled([many, few], [many]).drawn == "requests", "each server must tell"
    assert resampled([many] * 3, [few] * 3).drawn == "repeats", "servers come first"
    assert resampled([[*many, []]], [many]).units == (5, 5), "one whose requests all failed"


def test_a_batch_has_one_fate() -> None:
    """Sixteen requests that were late together are one accident."""
    generator = np.random.default_rng(5)
    late = [[v] * 16 for v in generator.normal(100, 20, 12)]
    found = resampled([late[:6]], [late[6:]]).interval()
    alone = difference([flat(late[:6])], [flat(late[6:])])
    assert found.high - found.low > 3 * (alone.high - alone.low)


@pytest.mark.parametrize("count", [5, 10])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_batches_hold_the_truth(count: int, kind: str) -> None:
    """What the sides differ by, at the confidence of one figure and at that of one of three."""
    generator = np.random.default_rng(20261128)
    held = dict.fromkeys((0.95, 1 - 0.05 / 3), 0)
    for _ in range(400):
        sides = [batches(generator, count, 100.0, 8.0) for _ in range(2)]
        if kind == "skewed":
            sides = [
                [
                    [v + 8 * late for v in b]
                    for b, late in zip(side, generator.lognormal(0, 0.8, count), strict=True)
                ]
                for side in sides
            ]
        found = resampled([sides[0]], [sides[1]], draws=500)
        for confidence in held:
            held[confidence] += found.interval(confidence).within_noise
    assert 0.92 <= held[0.95] / 400 <= 0.985
    assert 0.965 <= held[1 - 0.05 / 3] / 400 <= 1


@settings(deadline=None, max_examples=60)
@given(ARMS, st.floats(1e-6, 0.9))
def test_a_p_value_is_the_interval_turned_round(arms, outside) -> None:
    base, other = arms
    found = resampled([[v] for v in base], [[v] for v in other], **QUICK)
    p = found.p
    assert 0 <= p <= 1
    assume(abs(outside - p) > 1e-3 * p)
    interval = found.interval(1 - outside)
    assert (interval.low <= 0 <= interval.high) == (outside < p)


@settings(deadline=None, max_examples=40)
@given(ARMS)
def test_more_confidence_is_never_narrower(arms) -> None:
    base, other = arms
    found = resampled([[v] for v in base], [[v] for v in other], **QUICK)
    intervals = [found.interval(c) for c in (0.5, 0.95, 0.989, 0.99, 0.991, 0.9999)]
    for narrow, wide in itertools.pairwise(intervals):
        assert wide.low <= narrow.low + 1e-9
        assert wide.high >= narrow.high - 1e-9
