"""Several figures judged at once, so that one of a hundred is not taken for news.

Holm ("A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
Statistics 6, 1979): the smallest of m p-values is held against a share 1/m of what may go wrong,
the next against 1/(m - 1), until one does not pass; that one and all after it are noise. Whatever
the figures have to do with one another, the chance that any of those that did not change is said
to have changed is no more than asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from vllm_codesign.analysis.bootstrap import CONFIDENCE

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one figure among those of its family."""

    p: float
    """Corrected: to be held against 1 - CONFIDENCE."""
    beyond_noise: bool
    confidence: float
    """Of the interval that holds 0 exactly where the figure is within noise: that of the step at
    which Holm judged it, 1 - 0.05 / m for the first of m."""


def judge(p_values: Mapping[Key, float], confidence: float = CONFIDENCE) -> dict[Key, Judged]:
    """Each figure of one family."""
    wrong = 1 - confidence
    found: dict[Key, Judged] = {}
    corrected, passing, outside = 0.0, True, wrong
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for place, (key, p) in enumerate(ordered):
        left = len(ordered) - place
        corrected = max(corrected, min(1.0, p * left))
        if passing:
            outside = wrong / left
            passing = p < outside
        found[key] = Judged(corrected, passing, 1 - outside)
    return {key: found[key] for key in p_values}
