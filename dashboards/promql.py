"""What a PromQL expression asks for: metrics, the labels that it matches, the labels it groups by.

A reader of names, not a parser: `promtool` and Prometheus say whether it is PromQL at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"'  # strings
    r"|\[[^\]]*\]"  # ranges
    r"|[A-Za-z_:][A-Za-z0-9_:]*"
    r"|[0-9.]+[a-z]*"
    r"|[=!]~|[=!<>]=|\S"
)
_GROUPINGS = frozenset(("by", "without", "on", "ignoring", "group_left", "group_right"))
_WORDS = _GROUPINGS | {"and", "or", "unless", "bool", "offset", "inf", "nan"}


@dataclass(frozen=True, slots=True)
class Selector:
    """One metric with what it is matched by: label, sign, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    """Of `{...}` without a name the metric is empty."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Labels that are kept of these metrics' series."""

    labels: tuple[str, ...]
    metrics: tuple[str, ...]


def selectors(expression: str) -> list[Selector]:
    """Every selector, in order."""
    return [selector for _, selector in _selectors(_tokens(expression))]


def groupings(expression: str) -> list[Grouping]:
    """Every `by (...)` with the metrics under it."""
    tokens = _tokens(expression)
    found = []
    for at, token in enumerate(tokens):
        if token != "by":
            continue
        end = tokens.index(")", at)
        labels = tuple(t for t in tokens[at + 2 : end] if t != ",")
        # The operand follows the labels, or precedes them: `sum(x) by (y)`.
        if tokens[end + 1 : end + 2] == ["("]:
            inner = tokens[end + 1 : _closing(tokens, end + 1)]
        else:
            inner = tokens[_opening(tokens, at - 1) : at]
        metrics = tuple(s.metric for _, s in _selectors(inner))
        found.append(Grouping(labels, metrics))
    return found


def _tokens(expression: str) -> list[str]:
    return _TOKEN.findall(expression)


def _selectors(tokens: list[str]) -> Iterator[tuple[int, Selector]]:
    at = 0
    while at < len(tokens):
        token = tokens[at]
        after = tokens[at + 1] if at + 1 < len(tokens) else ""
        if token in _GROUPINGS and after == "(":
            at = tokens.index(")", at) + 1
        elif token == "{" or (_is_name(token) and after not in ("(", "by", "without")):
            name = "" if token == "{" else token
            begin = at if token == "{" else at + 1
            matchers: tuple[tuple[str, str, str], ...] = ()
            if tokens[begin : begin + 1] == ["{"]:
                end = tokens.index("}", begin)
                matchers = _matchers(tokens[begin + 1 : end])
                at = end
            yield at, Selector(name, matchers)
            at += 1
        else:
            at += 1


def _is_name(token: str) -> bool:
    return bool(re.match(r"[A-Za-z_:]", token)) and token not in _WORDS


def _matchers(tokens: list[str]) -> tuple[tuple[str, str, str], ...]:
    words = [t for t in tokens if t != ","]
    triples = zip(words[::3], words[1::3], words[2::3], strict=True)
    return tuple((label, sign, value.strip('"')) for label, sign, value in triples)


def _closing(tokens: list[str], at: int) -> int:
    depth = 0
    for index in range(at, len(tokens)):
        depth += (tokens[index] == "(") - (tokens[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"no closing parenthesis: {' '.join(tokens[at:])}")


def _opening(tokens: list[str], at: int) -> int:
    depth = 0
    for index in range(at, -1, -1):
        depth += (tokens[index] == ")") - (tokens[index] == "(")
        if depth == 0:
            return index
    raise ValueError(f"no opening parenthesis: {' '.join(tokens[: at + 1])}")
