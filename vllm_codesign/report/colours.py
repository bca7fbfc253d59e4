"""What is drawn in which colour, on every page and in light and dark alike.

Host phases warm, engine phases cold, what nobody claims grey; told apart by lightness too, for
print and for colour-blind readers (after Okabe and Ito's palette). A colour never says anything
alone: each has its name beside it or in a table.
"""

from __future__ import annotations

from vllm_codesign.analysis import server
from vllm_codesign.semconv import IdleCause, Part

PHASES = {
    "receive": "#f4d58d",
    "template_wait": "#f2b880",
    "template_run": "#d98c4a",
    "tokenize_wait": "#c93f53",
    "tokenize_run": "#8f2d56",
    "frontend_wait": "#e3b7a0",
    "frontend_run": "#a9745b",
    "dispatch": "#edae49",
    "queue": "#7fd1c7",
    "prefill": "#2a9df4",
    "decode": "#1d5fa8",
    "return": "#c9a227",
    "detokenize": "#b8a07e",
    "send": "#b8a07e",
    "other": "#9aa0a6",
}
CLIENT = {
    "serialize": "#6c757d",
    "http_overhead": "#495464",
    "prefill": "#a9b4c2",
    "decode": "#cdd5df",
}
PARTS = {
    Part.DEVICE_PREFILL.value: "#2a9df4",
    Part.DEVICE_DECODE.value: "#1d5fa8",
    Part.KV_LOAD.value: "#56b4e9",
    Part.GAP_PREPARE.value: "#c93f53",
    Part.GAP_SCHEDULE.value: "#8f2d56",
    Part.GAP_UPDATE.value: "#d98c4a",
    Part.GAP_IPC.value: "#edae49",
    Part.GAP_OUTPUT.value: "#c9a227",
    Part.GAP_OTHER.value: "#b9bdc2",
    Part.ENGINE_PREFILL.value: "#2a9df4",
    Part.ENGINE_DECODE.value: "#1d5fa8",
    Part.ENGINE_QUEUE.value: "#7fd1c7",
    Part.QUEUE_CAPACITY.value: "#7fd1c7",
    Part.QUEUE_HOST.value: "#e07a5f",
    Part.IPC.value: "#f4d58d",
    Part.FRONTEND_CPU.value: "#a9745b",
    Part.FRONTEND_WAIT.value: "#e3b7a0",
    Part.UNATTRIBUTED.value: "#9aa0a6",
}
TOGETHER = "#1d5fa8"
"""Of several parts as one."""
STRIP = {
    "busy": "#1d5fa8",
    IdleCause.PREPARE.value: PARTS[Part.GAP_PREPARE.value],
    IdleCause.SCHEDULE.value: PARTS[Part.GAP_SCHEDULE.value],
    IdleCause.UPDATE.value: PARTS[Part.GAP_UPDATE.value],
    IdleCause.IPC.value: PARTS[Part.GAP_IPC.value],
    IdleCause.OUTPUT.value: PARTS[Part.GAP_OUTPUT.value],
    IdleCause.OTHER.value: PARTS[Part.GAP_OTHER.value],
    IdleCause.KV_LOAD.value: PARTS[Part.KV_LOAD.value],
    IdleCause.FRONTEND.value: PARTS[Part.FRONTEND_WAIT.value],
}
"""Time without work has no colour: the page shows through."""
STEPS = {
    "device": "#1d5fa8",
    "prepare": "#c93f53",
    "schedule": "#8f2d56",
    "update": "#d98c4a",
}
KV = "#56b4e9"
SERIES = ("#1f8fd6", "#c93f53", "#1b9e77", "#b8860b", "#7a6fd0", "#a9745b")
"""Lines of a plot: each three to one or better against the page, light and dark."""
_SPANS = {p.span.name: PHASES[p.key] for p in server.PHASES if p.span is not None}
_DARK, _LIGHT = "#10151d", "#ffffff"


def of_span(name: str) -> str:
    """Of a span of a request."""
    if name.startswith("kv."):
        return KV
    return _SPANS.get(name, PHASES["other"])


def ink_on(colour: str) -> str:
    """Text that can be read on `colour`: dark or light, whichever has more contrast."""
    level = luminance(colour)
    dark, light = luminance(_DARK), luminance(_LIGHT)
    return _DARK if (level + 0.05) / (dark + 0.05) >= (light + 0.05) / (level + 0.05) else _LIGHT


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it, 0 to 1, of `#rrggbb`."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(
        weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )
