"""Writes docs/spans.md from `vllm_codesign.semconv`: `make docs`."""

from __future__ import annotations

from pathlib import Path

from vllm_codesign import semconv
from vllm_codesign.semconv import Attribute, SpanKind

PAGE = Path(__file__).with_name("spans.md")

_INTRODUCTION = f"""\
<!-- Written by docs/generate_spans.py from vllm_codesign/semconv; `make docs`. -->
# Spans and attributes

One trace for each HTTP request. Its root is the SERVER span, the others are its children.
Its parent is the caller's `traceparent` where there is one. Where a request has several
prompts or choices there is one set of engine spans for each engine request, told apart by
`{semconv.REQUEST_INDEX.key}`.

Names that OpenTelemetry has a convention for are OpenTelemetry's; the others begin with
`codesign.`. Keys that end in `_ns` are nanoseconds, in `_us` microseconds. No prompt and no
completion is ever recorded. A string is cut at {semconv.MAX_STRING_BYTES:,} bytes, a span has at
most {semconv.MAX_EVENTS} events.

`service.name` is `OTEL_SERVICE_NAME`, with `-engine` or `-worker` added by the process that the
span tells of; the table shows it with the default, `{semconv.DEFAULT_SERVICE_NAME}`.
"""

_STEPS = f"""\
## Steps

At level `step` there is one trace for each engine step as well. Its root,
`{semconv.STEP.name}`, has a link to the root span of every request in the step; `prefill` and
`decode` say which steps served them. Spans of the workers come once for each rank.
"""


_SERIES = """\
## Series

Sampled figures, in `series/*.parquet` of a capture: `time_ns`, `name`, `unit`, `value` and
`attributes`; once a second where nothing else is said. While the level is `off` nobody asks
the kernel or a driver.
"""


def page() -> str:
    """The whole text of docs/spans.md."""
    parts = [_INTRODUCTION, "## Spans\n", *_overview(semconv.SPANS), ""]
    for span in semconv.SPANS:
        parts += [*_section(span), ""]
    parts += [_STEPS, *_overview(semconv.STEP_SPANS), ""]
    for span in semconv.STEP_SPANS:
        parts += [*_section(span), ""]
    parts += ["On a link:", "", *_table(semconv.STEP_LINK), ""]
    parts += [*_event(), "", *_outcomes(), "", _SERIES, *_series()]
    return "\n".join(parts) + "\n"


def _overview(spans: tuple[SpanKind, ...]) -> list[str]:
    rows = [
        f"| {_code(span.name)} | {_code(semconv.DEFAULT_SERVICE_NAME + span.service)} "
        f"| {_cell(span.starts)} | {_cell(span.ends)} |"
        for span in spans
    ]
    return ["| span | service | from | to |", "|---|---|---|---|", *rows]


def _section(span: SpanKind) -> list[str]:
    lines = [f"### {_code(span.name)}", "", f"From: {span.starts}. To: {span.ends}."]
    if span.aggregate:
        lines += [
            "",
            "An aggregate: it stands for many short stretches between its ends, and"
            f" {_code(semconv.BUSY.key)} is their sum.",
        ]
    return [*lines, "", *_table(span.attributes)] if span.attributes else lines


def _event() -> list[str]:
    return [
        "## Events",
        "",
        f"{_code(semconv.EVENT_PREEMPTED)} on {_code(semconv.DECODE.name)} or"
        f" {_code(semconv.PREFILL.name)}: the scheduler took the request's blocks away.",
        "",
        *_table((semconv.EVENT_TOKENS_LOST,)),
        "",
        f"{_code(semconv.EVENT_EVICTED)} on the same: an allocation for the request took cached"
        " blocks, one event for each request that had them.",
        "",
        *_table(semconv.EVICTED),
        "",
        f"{_code(semconv.EVENT_STORED)} on {_code(semconv.KV_STORE.name)}: a worker has seen one of"
        " the request's stores end, the last rank's; of LMCache's multi-process connector alone.",
        "",
        *_table(semconv.STORED),
    ]


def _series() -> list[str]:
    rows = [
        f"| {_code(each.name)} | {_code(each.unit)} | {_cell(each.brief)} "
        f"| {', '.join(_code(attribute.key) for attribute in each.attributes)} |"
        for each in semconv.SERIES
    ]
    used = {a.key: a for each in semconv.SERIES for a in each.attributes}
    return [
        "| series | unit | | attributes |",
        "|---|---|---|---|",
        *rows,
        "",
        *_table(tuple(used.values())),
    ]


def _outcomes() -> list[str]:
    outcomes = ", ".join(_code(outcome.value) for outcome in semconv.Outcome)
    parts = ", ".join(_code(part.value) for part in semconv.Part)
    reasons = ", ".join(_code(reason.value) for reason in semconv.QueueReason)
    return [
        "## Values",
        "",
        f"{_code(semconv.OUTCOME.key)}: {outcomes}.",
        "",
        f"{_code(semconv.QUEUE_REASON.key)}: {reasons}.",
        "",
        f"Parts of a request's wall time, in the order of precedence: {parts}.",
    ]


def _table(attributes: tuple[Attribute, ...]) -> list[str]:
    rows = [
        f"| {_code(each.key)} | {_cell(each.type)} | {each.unit} | {_cell(each.brief)} |"
        for each in attributes
    ]
    return ["| attribute | type | unit | |", "|---|---|---|---|", *rows]


def _code(text: str) -> str:
    return f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
