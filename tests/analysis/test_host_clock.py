"""Unix time as monotonic time."""

import pytest

from vllm_codesign.analysis.host_clock import HostClock


def test_between_readings_the_clocks_drift_evenly() -> None:
    clock = HostClock([(2_000, 1_002_000), (1_000, 1_000_000)])
    assert clock.readings == ((1_000, 1_000_000), (2_000, 1_002_000))
    assert clock.to_monotonic(1_000_000) == 1_000
    assert clock.to_monotonic(1_001_000) == 1_500
    assert clock.to_monotonic(1_002_000) == 2_000


def test_beyond_them_it_runs_as_fast_as_the_host() -> None:
    clock = HostClock([(1_000, 1_000_000), (2_000, 1_002_000)])
    assert clock.to_monotonic(999_900) == 900
    assert clock.to_monotonic(1_002_100) == 2_100


def test_no_digit_is_lost() -> None:
    unix = 1_760_000_000_123_456_789
    clock = HostClock([(5_000_000_000_000_001, unix)])
    assert clock.to_monotonic(unix + 1) == 5_000_000_000_000_002


def test_without_a_reading_there_is_no_clock() -> None:
    with pytest.raises(ValueError, match="no reading"):
        HostClock([])
