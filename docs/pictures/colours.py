"""Colours for a light and for a dark page, and the style sheet that has them."""

from __future__ import annotations

SERIES = (
    ("#1a7f37", "#6ccb7a"),
    ("#b07c00", "#f2cc0c"),
    ("#2b6cc4", "#8ab8ff"),
    ("#d9620a", "#ff9d45"),
    ("#c4314b", "#f2687c"),
    ("#7d3fb0", "#c79bf2"),
    ("#0e7c86", "#4fd0d8"),
    ("#b8388a", "#ff8ac6"),
    ("#5c6b00", "#c3d94a"),
    ("#3a4a9f", "#8f9cf5"),
    ("#7a4f24", "#d6a878"),
    ("#5f6a76", "#aab6c2"),
)
"""Light and dark, in the order of a panel's series; the thirteenth has the first's, dashed."""

THRESHOLDS = {
    "green": ("#1a7f37", "#6ccb7a"),
    "yellow": ("#946200", "#f2cc0c"),
    "red": ("#c4314b", "#f2687c"),
}
"""By Grafana's names; all that the dashboards use."""

_PAGE = {
    "page": ("#f4f5f7", "#111217"),
    "panel": ("#ffffff", "#1b1d23"),
    "edge": ("#d5d9e0", "#34373f"),
    "grid": ("#e6e8ec", "#2c2f36"),
    "text": ("#1f2430", "#e3e5ea"),
    "muted": ("#565e6c", "#a3a9b5"),
    "heat": ("#c2410c", "#ff9d45"),
    "dot": ("#b8388a", "#ff8ac6"),
}


def series_class(index: int) -> str:
    """The class of a panel's series by its position."""
    dashed = " dashed" if index // len(SERIES) % 2 else ""
    return f"s{index % len(SERIES)}{dashed}"


def style() -> str:
    """Text of the style sheet."""
    lines = [
        _variables(":root", 0),
        f"@media (prefers-color-scheme: dark) {{ {_variables(':root', 1)} }}",
        'text { font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;'
        " fill: var(--text); }",
        ".muted { fill: var(--muted); }",
        ".bold { font-weight: 600; }",
        ".code { font-family: ui-monospace, Menlo, Consolas, monospace; fill: var(--muted); }",
        ".page { fill: var(--page); }",
        ".panel { fill: var(--panel); stroke: var(--edge); }",
        ".grid { stroke: var(--grid); fill: none; }",
        ".line { stroke: currentColor; stroke-width: 1.3; stroke-linejoin: round; fill: none; }",
        ".area { fill: currentColor; }",
        ".swatch { stroke: currentColor; stroke-width: 4; fill: none; }",
        ".dashed { stroke-dasharray: 4 2; }",
        ".limit { stroke: currentColor; stroke-dasharray: 6 4; fill: none; }",
        ".heat { fill: var(--heat); }",
        ".dot { fill: var(--dot); }",
        *(f".s{n} {{ color: var(--s{n}); }}" for n in range(len(SERIES))),
        *(f".{name} {{ color: var(--{name}); }}" for name in THRESHOLDS),
        *(f"text.{name} {{ fill: var(--{name}); }}" for name in THRESHOLDS),
    ]
    return "\n".join(lines)


def _variables(selector: str, scheme: int) -> str:
    named = {**_PAGE, **THRESHOLDS, **{f"s{n}": pair for n, pair in enumerate(SERIES)}}
    declared = "; ".join(f"--{name}: {pair[scheme]}" for name, pair in named.items())
    return f"{selector} {{ {declared} }}"
