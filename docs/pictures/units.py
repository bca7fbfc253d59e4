"""Values in words, by Grafana's names of units; one that it does not know is put behind the value.

Three significant digits everywhere; Grafana shows as many as it finds room for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """`value / divisor` is what is written before `suffix`."""

    divisor: float
    suffix: str


_TIMES = (
    Scale(1e-9, " ns"),
    Scale(1e-6, " µs"),
    Scale(1e-3, " ms"),
    Scale(1.0, " s"),
    Scale(60.0, " min"),
    Scale(3600.0, " hour"),
)
_DECIMAL = ("", "k", "M", "G", "T")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti")
_SHORT = ("", " K", " Mil", " Bil", " Tri")
_COUNTED = ("", "K", "M", "B", "T")


def _thousands(prefixes: tuple[str, ...], form: str, factor: float = 1000.0) -> tuple[Scale, ...]:
    return tuple(Scale(factor**power, form.format(prefix)) for power, prefix in enumerate(prefixes))


_UNITS = {
    "s": _TIMES,
    "percentunit": (Scale(0.01, "%"),),
    "short": _thousands(_SHORT, "{}"),
    "reqps": _thousands(_COUNTED, "{} req/s"),
    "cps": _thousands(_COUNTED, "{} c/s"),
    "ops": _thousands(_COUNTED, "{} ops/s"),
    "bytes": _thousands(_BINARY, " {}B", 1024.0),
    "Bps": _thousands(_DECIMAL, " {}B/s"),
    "watt": _thousands(_DECIMAL, " {}W"),
    "celsius": (Scale(1.0, " °C"),),
}


def scale(value: float, unit: str) -> Scale:
    """The largest scale of the unit that leaves at least one before the point."""
    scales = _UNITS.get(unit, (Scale(1.0, f" {unit}"),))
    if value == 0:
        return next(each for each in scales if each.divisor >= 1 or len(scales) == 1)
    fitting = [each for each in scales if abs(value) >= each.divisor * (1 - 1e-9)]
    return fitting[-1] if fitting else scales[0]


def worded(value: float, unit: str) -> str:
    """`0.0123` and `s` give `12.3 ms`."""
    found = scale(value, unit)
    rounded = _rounded(value / found.divisor) * found.divisor
    # 999.6 ms are a second.
    found = scale(rounded, unit)
    return _digits(_rounded(rounded / found.divisor)) + found.suffix


def _rounded(value: float) -> float:
    """To three significant digits; those before the point all stay."""
    return float(round(value)) if abs(value) >= 100 else float(f"{value:.3g}")


def _digits(value: float) -> str:
    """Without zeros at the end, and never with an exponent."""
    return f"{value:.12f}".rstrip("0").rstrip(".") if value else "0"
