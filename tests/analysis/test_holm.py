"""Holm's steps, by hand, and how often they are wrong."""

import numpy as np
import pytest

from vllm_codesign.analysis.holm import judge


def test_by_hand() -> None:
    found = judge({"a": 0.03, "b": 0.001, "c": 0.02, "d": 0.5})
    # 0.001 < 0.05 / 4 passes; 0.02 > 0.05 / 3 does not, and nothing after it does.
    assert {key: each.beyond_noise for key, each in found.items()} == {
        "a": False,
        "b": True,
        "c": False,
        "d": False,
    }
    assert {key: pytest.approx(each.p) for key, each in found.items()} == {
        "a": 0.06,
        "b": 0.004,
        "c": 0.06,
        "d": 0.5,
    }
    assert found["b"].confidence == pytest.approx(1 - 0.05 / 4)
    assert [found[key].confidence for key in "acd"] == pytest.approx([1 - 0.05 / 3] * 3)


def test_one_figure_is_not_corrected() -> None:
    (found,) = judge({"a": 0.049}).values()
    assert (found.p, found.beyond_noise, found.confidence) == (0.049, True, pytest.approx(0.95))
    assert judge({}) == {}


def test_the_second_is_held_against_one_less() -> None:
    found = judge({"a": 0.02, "b": 0.04})
    assert all(each.beyond_noise for each in found.values())
    assert found["a"].confidence == pytest.approx(0.975)
    assert found["b"].confidence == pytest.approx(0.95)
    assert found["b"].p == 0.04


def test_an_interval_of_that_confidence_says_the_same() -> None:
    generator = np.random.default_rng(3)
    for _ in range(200):
        p_values = dict(enumerate(generator.uniform(0, 0.1, 6)))
        for key, each in judge(p_values).items():
            assert each.beyond_noise == (p_values[key] < 1 - each.confidence)
            assert each.beyond_noise == (each.p < 0.05)


def test_it_is_wrong_five_times_in_a_hundred_whatever_the_number() -> None:
    generator = np.random.default_rng(4)
    for m in (1, 3, 30):
        wrong = sum(
            any(each.beyond_noise for each in judge(dict(enumerate(row))).values())
            for row in generator.uniform(0, 1, (4_000, m))
        )
        assert wrong / 4_000 == pytest.approx(0.05, abs=0.01)
