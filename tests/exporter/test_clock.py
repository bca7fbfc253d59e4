"""Monotonic to Unix time: the closest pair of readings, refreshed and kept short."""

import time
from collections.abc import Iterator

import pytest

from vllm_codesign.exporter import clock
from vllm_codesign.exporter.clock import Anchor

SECOND = 1_000_000_000


class Clocks:
    """Both clocks of a host, by hand; each look at the monotonic one costs `cost`."""

    def __init__(self) -> None:
        self.monotonic = 1_000 * SECOND
        self.offset = 1_760_000_000 * SECOND
        self.costs: Iterator[int] = iter(())

    def monotonic_ns(self) -> int:
        self.monotonic += next(self.costs, 10)
        return self.monotonic

    def time_ns(self) -> int:
        return self.monotonic + self.offset


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(time, "monotonic_ns", made.monotonic_ns)
    monkeypatch.setattr(time, "time_ns", made.time_ns)
    return made


def test_the_closest_of_five_readings_is_taken(clocks: Clocks) -> None:
    # before, after of five pairs: interrupted for 1 ms, 20 us, 2 us, 1 ms, 1 ms.
    clocks.costs = iter([10, 1_000_000, 10, 20_000, 10, 2_000, 10, 1_000_000, 10, 1_000_000])
    monotonic, unix = clock.read_both()
    begun = 1_000 * SECOND + 1_000_000 + 20_000 + 3 * 10
    assert monotonic == begun + 1_000
    assert unix == begun + clocks.offset


def test_conversion(clocks: Clocks) -> None:
    anchor = Anchor()
    then = clocks.monotonic - 5 * SECOND
    assert anchor.to_unix(then) == pytest.approx(then + clocks.offset, abs=100)
    assert anchor.to_unix(then + 7) - anchor.to_unix(then) == 7


def test_refreshed_each_minute_and_when_the_wall_clock_is_set(clocks: Clocks) -> None:
    anchor = Anchor()
    assert not anchor.poll()
    clocks.monotonic += 59 * SECOND
    assert not anchor.poll()
    clocks.monotonic += SECOND
    clocks.offset += 3600 * SECOND  # somebody set the clock
    assert anchor.poll()
    assert anchor.to_unix(clocks.monotonic) - clocks.monotonic == pytest.approx(
        clocks.offset, abs=100
    )


def test_the_first_and_the_last_readings_are_kept(clocks: Clocks) -> None:
    anchor = Anchor()
    first = anchor.readings[0]
    for _ in range(30):
        clocks.monotonic += 61 * SECOND
        assert anchor.poll()
    assert len(anchor.readings) == 10
    assert anchor.readings[0] == first
    assert anchor.readings == sorted(anchor.readings)
