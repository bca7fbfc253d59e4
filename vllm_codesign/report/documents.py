"""Requests as the page's script reads them: arrays of numbers, every name written once.

A document (see `templates/requests.js`, which is its only reader):

    [trace id, span id, name, outcome, scenario, session, start (Unix us), duration (ns),
     spans, number of steps, steps]

A span is `[label, name, service, start, length, flags, attributes, events]`, root first, then by
their start; times in ns from the root's start, strings as places in `names`. `attributes` are
places and values in turn, an event is `[name, time, attributes]`. A step is `[number, requests,
tokens, [device], [prepare], [schedule], [update]]`, each of the four start and length of its
stretches in turn; `steps` is null where they are not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_codesign import semconv
from vllm_codesign.model.step import Step, Stretch
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span
from vllm_codesign.report import colours

MAX_STEPS = 400
"""Steps drawn under one request."""
AGGREGATE = 1
"""Flag of a span that stands for many calls spread over its length."""
_MAX_TEXT = 100
"""Characters of one attribute; the inter-token times would fill the screen, and the file."""

Document = list[Any]


class Documents:
    """Makes documents that share one table of names."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._places: dict[str, int] = {}

    @property
    def colours(self) -> list[str]:
        """By place, as if every name were a span's."""
        return [colours.of_span(name) for name in self.names]

    def document(
        self, trace: RequestTrace, scenario: str, steps: Sequence[Step] | None
    ) -> Document:
        """`steps`: in order; None where nobody looked for them."""
        root = trace.root
        begin = root.attributes.get(semconv.MONOTONIC.key)
        drawn = None
        if steps is not None and isinstance(begin, int):
            drawn = [_step(step, begin) for step in steps[:MAX_STEPS]]
        return [
            f"{root.trace_id:032x}",
            f"{root.span_id:016x}",
            self._place(root.name),
            self._place(str(root.attributes.get(semconv.OUTCOME.key, "unknown"))),
            self._place(scenario),
            str(root.attributes.get(semconv.SESSION_ID.key, "")),
            root.start_ns // 1_000,
            root.duration_ns,
            [self._span(span, trace) for span in trace.spans],
            len(steps or ()),
            drawn,
        ]

    def _span(self, span: Span, trace: RequestTrace) -> list[Any]:
        origin = trace.root.start_ns
        kind = semconv.SPAN_BY_NAME.get(span.name)
        return [
            self._place(_label(span, trace)),
            self._place(span.name),
            self._place(span.service),
            span.start_ns - origin,
            span.duration_ns,
            AGGREGATE if kind is not None and kind.aggregate else 0,
            self._attributes(span.attributes.items()),
            [
                [self._place(e.name), e.time_ns - origin, self._attributes(e.attributes.items())]
                for e in span.events
            ],
        ]

    def _attributes(self, items: Any) -> list[Any]:
        return [each for key, value in items for each in (self._place(key), self._value(value))]

    def _value(self, value: AttributeValue) -> str | int:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int) and abs(value) < 2**53:  # as JavaScript can tell them apart
            return value
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"

    def _place(self, name: str) -> int:
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = len(self.names)
            self.names.append(name)
        return place


def _label(span: Span, trace: RequestTrace) -> str:
    """The name; of a connector's span the tier and the tokens, of several choices which."""
    index = span.attributes.get(semconv.REQUEST_INDEX.key)
    several = any(s.attributes.get(semconv.REQUEST_INDEX.key) == 1 for s in trace.children)
    name = f"{span.name} #{index}" if several and index is not None else span.name
    tier = span.attributes.get(semconv.KV_TIER.key)
    tokens = span.attributes.get(semconv.KV_TOKENS.key)
    told = [str(tier)] if tier else []
    if isinstance(tokens, int):
        told.append(f"{tokens:,} tokens")
    return f"{name} ({', '.join(told)})" if told else name


def _step(step: Step, begin: int) -> list[Any]:
    return [
        step.number,
        step.requests,
        step.tokens,
        *(_flat(pieces(step, name), begin) for name in colours.STEPS),
    ]


def _flat(stretches: Sequence[Stretch], begin: int) -> list[int]:
    return [each for start, end in stretches for each in (start - begin, end - start)]


def pieces(step: Step, name: str) -> list[Stretch]:
    """The stretches of one row below a waterfall, by key of `colours.STEPS`."""
    if name == "device":
        return [(d.start_ns, d.end_ns) for rank in step.ranks for d in rank.device]
    if name == "schedule":
        return [step.schedule]
    if name == "update":
        return [step.update] if step.update is not None else []
    return [(r.execute[0], r.forward[0]) for r in step.ranks if r.execute and r.forward]
