import pytest

from benchmarks.intervals import median_interval, neighbour_ratios


def test_interval_of_equal_values_is_a_point():
    interval = median_interval([3.0] * 7)
    assert (interval.median, interval.low, interval.high, interval.n) == (3.0, 3.0, 3.0, 7)
    assert interval.width == 0


def test_interval_is_reproducible_and_narrows_with_more_values():
    few = median_interval([float(n % 10) for n in range(20)])
    many = median_interval([float(n % 10) for n in range(2000)])
    assert few == median_interval([float(n % 10) for n in range(20)])
    assert few.low <= few.median <= few.high
    assert many.width < few.width


def test_interval_of_a_known_sample():
    # Of 101 values 0...100 the median's 95 % order statistics are near ranks 41 and 61.
    interval = median_interval([float(n) for n in range(101)])
    assert interval.median == 50
    assert 37 <= interval.low <= 43
    assert 57 <= interval.high <= 63


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        median_interval([])


def test_ratios_are_taken_over_both_neighbours():
    ratios = neighbour_ratios(["off", "a", "off", "b", "off"], [1.0, 3.0, 2.0, 3.0, 4.0], "off")
    assert ratios == {"a": [2.0], "b": [1.0]}


def test_a_linear_drift_cancels():
    labels = ["off", "a"] * 20 + ["off"]
    ratios = neighbour_ratios(labels, [10.0 + 0.5 * n for n in range(len(labels))], "off")
    assert ratios["a"] == pytest.approx([1.0] * 20)


def test_a_slot_without_reference_beside_it_is_an_error():
    with pytest.raises(ValueError, match="slot 1"):
        neighbour_ratios(["off", "a", "b", "off"], [1.0] * 4, "off")
    with pytest.raises(ValueError, match="slot 1"):
        neighbour_ratios(["off", "a"], [1.0] * 2, "off")
