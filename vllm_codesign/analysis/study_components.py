"""What the MI300X study published of single components, in `study_components.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Published:
    """One figure. `tokens` is None where it names none; `at_most`: a claim, not a measurement."""

    component: str
    tokens: int | None
    ms: float
    at_most: bool
    path: str | None
    """Where it stands in the study's data; None: in its text alone, as `said`."""
    said: str


@cache
def published() -> tuple[str, tuple[Published, ...]]:
    """Who published it, and every figure."""
    text = files("vllm_codesign.analysis").joinpath("study_components.json").read_text("utf-8")
    data = json.loads(text)
    figures = tuple(
        Published(
            each["component"],
            each["tokens"],
            each["ms"],
            each.get("at_most", False),
            each["from"],
            each.get("said", ""),
        )
        for each in data["figures"]
    )
    return str(data["source"]), figures
