"""Student's quantiles, against the tables of every textbook."""

import pytest

from vllm_codesign.analysis import student


@pytest.mark.parametrize(
    ("freedom", "tail", "expected"),
    [
        (2, 0.025, 4.302653),
        (2, 0.0005, 31.59905),
        (3, 0.025, 3.182446),
        (3, 0.0005, 12.92398),
        (4, 0.025, 2.776445),
        (10, 0.005, 3.169273),
        (10, 0.0005, 4.586894),
        (30, 0.0005, 3.645959),
        (120, 0.025, 1.979930),
        (1e9, 0.025, 1.959964),
        (float("inf"), 0.0005, 3.290527),
    ],
)
def test_quantiles(freedom: float, tail: float, expected: float) -> None:
    assert student.quantile(tail, freedom) == pytest.approx(expected, rel=1e-6)
    assert student.tail(expected, freedom) == pytest.approx(tail, rel=1e-4)


def test_two_degrees_have_a_formula() -> None:
    for t in (0.0, 0.3, 2.0, 50.0, 1e4):
        assert student.tail(t, 2) == pytest.approx(
            1 / ((2 + t * t) ** 0.5 * ((2 + t * t) ** 0.5 + t)), rel=1e-9
        )


def test_half_is_above_the_middle() -> None:
    for freedom in (2.0, 2.5, 7.3, 1e3, 1e6):
        assert student.tail(0.0, freedom) == pytest.approx(0.5)
