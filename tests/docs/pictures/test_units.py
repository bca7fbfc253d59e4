"""Values in words."""

from __future__ import annotations

import pytest

from docs.pictures.units import worded


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.0, "s", "0 s"),
        (3.2e-7, "s", "320 ns"),
        (4.56e-5, "s", "45.6 µs"),
        (0.0123, "s", "12.3 ms"),
        (0.9996, "s", "1 s"),
        (0.9994, "s", "999 ms"),
        (59.0, "s", "59 s"),
        (90.0, "s", "1.5 min"),
        (7200.0, "s", "2 hour"),
        (0.0, "percentunit", "0%"),
        (0.9712, "percentunit", "97.1%"),
        (1.0, "percentunit", "100%"),
        (0.00012, "percentunit", "0.012%"),
        (12.0, "short", "12"),
        (1234.0, "short", "1.23 K"),
        (2.5e6, "short", "2.5 Mil"),
        (0.25, "reqps", "0.25 req/s"),
        (1500.0, "cps", "1.5K c/s"),
        (8.125, "ops", "8.12 ops/s"),
        (0.0, "bytes", "0 B"),
        (1536.0, "bytes", "1.5 KiB"),
        (3 * 2.0**30, "bytes", "3 GiB"),
        (2.5e6, "Bps", "2.5 MB/s"),
        (750.0, "watt", "750 W"),
        (61.0, "celsius", "61 °C"),
        # Grafana knows no unit `cores`: it writes the name.
        (0.75, "cores", "0.75 cores"),
        (-0.02, "s", "-20 ms"),
    ],
)
def test_worded(value: float, unit: str, words: str) -> None:
    assert worded(value, unit) == words
