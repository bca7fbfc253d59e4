"""Student's distribution: how far out a figure of few values is, and how far is far out.

With t = sqrt(v) / tan(x) the density of t at v degrees of freedom is that of x in (0, pi) with
sin(x)^(v-1), up to a constant, so a tail is an integral of a smooth function over a short
interval (Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.1).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_WIDTHS = 14.0
"""Standard deviations of x beyond which nothing counts."""
_NEARLY_NORMAL = 1e6
_STEPS, _CLOSE = 100, 1e-10


def normal_quantile(tail: float) -> float:
    """What the normal exceeds with probability `tail`, which is below 0.5."""
    return -_NORMAL.inv_cdf(tail)


def tail(t: float, freedom: float) -> float:
    """How likely it is to exceed `t`, which is not negative."""
    if freedom > _NEARLY_NORMAL:
        return _NORMAL.cdf(-t)
    end = math.atan2(math.sqrt(freedom), t)
    begin = max(0.0, end - _WIDTHS / math.sqrt(freedom))
    half = (end - begin) / 2
    sines = np.sin(begin + half * (1 + _NODES))
    return half * float(_WEIGHTS @ sines ** (freedom - 1)) * _scale(freedom)


@lru_cache(maxsize=4096)
def quantile(wanted: float, freedom: float) -> float:
    """What it exceeds with probability `wanted`, below 0.5: the inverse of `tail`."""
    if freedom > _NEARLY_NORMAL:
        return normal_quantile(wanted)
    t = normal_quantile(wanted)
    # Newton's steps of log tail by log t, which is a straight line far out and bends one way.
    for _ in range(_STEPS):
        found = tail(t, freedom)
        density = _scale(freedom) * (1 + t * t / freedom) ** (-(freedom + 1) / 2)
        step = math.log(found / wanted) * found / (density / math.sqrt(freedom) * t)
        t *= math.exp(step)
        if abs(step) < _CLOSE:
            break
    return t


@lru_cache(maxsize=4096)
def _scale(freedom: float) -> float:
    """What makes the density of x one of probability."""
    whole = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    return math.exp(whole) / math.sqrt(math.pi)
