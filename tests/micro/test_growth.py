"""Exponents that are known beforehand, and how often their intervals hold them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_codesign.analysis import bootstrap
from vllm_codesign.micro.growth import fit, growths
from vllm_codesign.model.micro import Timing

CONTEXTS = (1_000, 8_000, 32_000, 100_000)
REQUESTS = (1, 4, 16, 32, 64, 256, 1_024)


def rounds(
    generator: np.random.Generator, sizes: tuple[int, ...], exponent: float, constant: float, n: int
) -> list[list[float]]:
    """Times as a machine gives them: never below what the work needs, at times well above."""
    return [
        list((constant + size**exponent) * (1 + 0.08 * generator.standard_exponential(n)))
        for size in sizes
    ]


def timing(component: str, *, tokens: int | None, requests: int | None, ns: float) -> Timing:
    return Timing(
        component=component,
        group="scheduler",
        variant="decode",
        tokens=tokens,
        requests=requests,
        samples_ns=[ns, ns * 1.01, ns * 0.99],
        median_ns=ns,
        low_ns=ns,
        high_ns=ns,
    )


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([CONTEXTS, REQUESTS]),
    st.floats(0.2, 2.5),
    st.sampled_from([0.0, 0.1, 1.0, 10.0]),
)
def test_without_noise_the_exponent_and_the_constant_come_back(sizes, exponent, times) -> None:
    constant = times * sizes[0] ** exponent
    if (constant + sizes[-1] ** exponent) / (constant + sizes[0] ** exponent) < 2:
        return
    found = fit(sizes, [[constant + size**exponent] * 3 for size in sizes], draws=20)
    assert found.exponent == pytest.approx(exponent, abs=0.01)
    assert found.constant_ns == pytest.approx(constant, rel=0.05, abs=0.02 * sizes[0] ** exponent)
    assert found.furthest < 0.01
    assert found.at(sizes[-1]) == pytest.approx(constant + sizes[-1] ** exponent, rel=0.01)


@pytest.mark.parametrize("sizes", [CONTEXTS, REQUESTS])
def test_intervals_hold_the_truth_95_times_in_100(sizes: tuple[int, ...]) -> None:
    """Pooled over curves with and without a constant, of 5 and of 15 rounds."""
    generator = np.random.default_rng(20261128)
    held, tries = 0, 0
    for exponent, constant in ((0.5, 0.0), (1.0, 0.0), (1.0, 0.3), (1.0, 10.0), (2.0, 0.0)):
        for n in (5, 15):
            for _ in range(12):
                samples = rounds(generator, sizes, exponent, constant * sizes[0] ** exponent, n)
                found = fit(sizes, samples, draws=200)
                held += found.low <= exponent <= found.high
                tries += 1
    assert 0.90 <= held / tries <= 0.995, held / tries


def test_a_constant_would_bend_the_plain_power() -> None:
    """Why it is fitted: linear growth above a constant looks like a square root without it."""
    constant = 30 * CONTEXTS[0]
    times = [float(constant + size) for size in CONTEXTS]
    slope = np.polyfit(np.log(CONTEXTS), np.log(times), 1)[0]
    assert slope == pytest.approx(0.28, abs=0.05)
    found = fit(CONTEXTS, [[time] * 5 for time in times])
    assert found.exponent == pytest.approx(1.0, abs=0.01)
    assert found.constant_ns == pytest.approx(constant, rel=0.01)
    assert "c + a n^b" in found.method


def test_what_does_not_grow_has_exponent_0() -> None:
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(40):
        samples = [list(10_000 * (1 + 0.08 * generator.standard_exponential(9))) for _ in CONTEXTS]
        found = fit(CONTEXTS, samples, draws=200)
        assert found.constant_ns == 0
        assert abs(found.exponent) < 0.05
        held += found.low <= 0 <= found.high
    assert held >= 36


def test_a_curve_that_is_no_power_says_how_far_off_it_is() -> None:
    sizes = (1, 10, 100, 1_000)
    found = fit(sizes, [[1.0] * 3, [10.0] * 3, [300.0] * 3, [1_000.0] * 3])
    assert found.furthest > 0.3


def test_the_same_samples_give_the_same_fit() -> None:
    samples = rounds(np.random.default_rng(1), REQUESTS, 1.2, 5.0, 9)
    assert fit(REQUESTS, samples) == fit(REQUESTS, samples)


@pytest.mark.parametrize(
    ("sizes", "samples"),
    [
        ((1, 2), [[1.0], [2.0]]),
        ((1, 2, 2), [[1.0], [2.0], [2.0]]),
        ((0, 1, 2), [[1.0], [2.0], [2.0]]),
        ((1, 2, 3), [[1.0], [2.0], []]),
        ((1, 2, 3), [[1.0], [2.0], [0.0]]),
        ((1, 2, 3), [[1.0], [2.0]]),
    ],
)
def test_what_cannot_be_fitted_is_refused(sizes, samples) -> None:
    with pytest.raises(ValueError, match=r"fit needs|but samples"):
        fit(sizes, samples)


def test_series_are_made_against_each_dimension_with_three_sizes() -> None:
    timings = [
        timing("schedule", tokens=tokens, requests=requests, ns=float(requests * 1_000))
        for tokens in CONTEXTS
        for requests in (1, 10, 100)
        if (tokens, requests) not in {(100_000, 100), (100_000, 10)}
    ]
    timings += [
        timing("encode", tokens=n, requests=None, ns=50.0 * n) for n in (1_000, 8_000, 64_000)
    ]
    timings += [timing("parse", tokens=n, requests=None, ns=50.0 * n) for n in (1_000, 8_000)]
    found = growths(timings)
    assert [(g.component, g.against, g.at, len(g.sizes)) for g in found] == [
        ("schedule", "tokens", 1, 4),
        ("schedule", "tokens", 10, 3),
        ("schedule", "tokens", 100, 3),
        ("schedule", "requests", 1_000, 3),
        ("schedule", "requests", 8_000, 3),
        ("schedule", "requests", 32_000, 3),
        ("encode", "tokens", None, 3),
    ]
    for one in found:
        expected = 0.0 if (one.component, one.against) == ("schedule", "tokens") else 1.0
        assert one.exponent == pytest.approx(expected, abs=0.01)
        assert one.low <= one.exponent <= one.high
        assert one.variant == ("decode" if one.component == "schedule" else one.variant)
    assert growths([]) == []


def test_medians_of_groups_and_their_interval() -> None:
    value, low, high = bootstrap.of_medians(
        [[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]], lambda rows: rows.sum(axis=1), draws=500
    )
    assert value == 22.0
    assert 11 / 10 <= low < 22 < high
    with pytest.raises(ValueError, match="no values"):
        bootstrap.of_medians([[1.0], []], lambda rows: rows.sum(axis=1))
