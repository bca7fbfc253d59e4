"""From a figure to the request: exemplars, and TraceQL for the slowest by cause."""

from __future__ import annotations

from dashboards.layout import Dashboard, Row, choices
from dashboards.panels import Panel, Query, TraceQuery
from dashboards.queries import own, quantile
from vllm_codesign.semconv import metrics as M
from vllm_codesign.semconv import spans as S
from vllm_codesign.semconv.engine_spans import EVENT_PREEMPTED
from vllm_codesign.semconv.parts import (
    AVOIDABLE_PARTS,
    BOTTLENECK,
    HOST_EXPOSED,
    HOST_HIDDEN,
    PART_TIMES,
)
from vllm_codesign.semconv.types import Attribute

CAUSE = "cause"
"""The variable with the cause that is asked for."""

_NEEDS = (
    " From Tempo: traces that OTEL_TRACES_SAMPLER or a Collector left out are not there; a local "
    "capture has every request."
)


def _span(attribute: Attribute) -> str:
    return f"span.{attribute.key}"


_MODEL = f'{_span(S.REQUEST_MODEL)} =~ "$model"'
_COLUMNS = ", ".join(
    _span(a)
    for a in (
        S.REQUEST_MODEL,
        BOTTLENECK,
        HOST_EXPOSED,
        HOST_HIDDEN,
        S.USAGE_INPUT_TOKENS,
        S.USAGE_OUTPUT_TOKENS,
        S.SESSION_ID,
    )
)
_PARTS = ", ".join(_span(a) for a in PART_TIMES)
_SERVER = "span:kind = server"


def _of_cause(more: str = "") -> str:
    return f'{{ {_SERVER} && {_MODEL} && {_span(BOTTLENECK)} = "${CAUSE}"{more} }}'


def _spans(title: str, shows: str, when_bad: str, query: str, width: int = 24) -> Panel:
    queries = (TraceQuery(query, table="spans"),)
    return Panel(title, shows + _NEEDS, when_bad, queries, kind="table", width=width, height=9)


EXEMPLARS = Row(
    "Exemplars: dots are traces, click one",
    (
        Panel(
            "Time to first token",
            "95th percentile and median; each dot is a request with its trace's id.",
            "click a high dot and open its trace: the widest of the early spans is what it waited "
            "for. Its SERVER span has `codesign.bottleneck`.",
            tuple(
                Query(quantile(q, M.TIME_TO_FIRST_TOKEN), f"p{q * 100:g}", exemplars=True)
                for q in (0.95, 0.5)
            ),
            unit="s",
        ),
        Panel(
            "Request duration",
            "95th percentile and median; each dot is a request with its trace's id.",
            "click a high dot; long decoding with a good TTFT: look at `decode` and its steps.",
            tuple(
                Query(quantile(q, M.REQUEST_DURATION), f"p{q * 100:g}", exemplars=True)
                for q in (0.95, 0.5)
            ),
            unit="s",
        ),
        Panel(
            "Requests by duration",
            "How many requests took how long.",
            "two bands where there was one: a part of the requests has met something; choose the "
            "cause above and look at the tables.",
            (
                Query(
                    "sum by (le) (increase("
                    f"{own(M.REQUEST_DURATION, suffix='_bucket')}[$__rate_interval]))",
                    exemplars=True,
                    heatmap=True,
                ),
            ),
            kind="heatmap",
            unit="s",
            width=24,
        ),
    ),
)

SLOWEST = Row(
    "The slowest by cause: `$cause`",
    (
        _spans(
            "Slow requests whose largest avoidable part is $cause",
            "Requests of over 100 ms by that bottleneck.",
            "open one: its waterfall shows where that part lies, its SERVER span all parts in "
            "nanoseconds.",
            f"{_of_cause(' && span:duration > 100ms')} | select({_COLUMNS})",
        ),
        Panel(
            "Duration by bottleneck, p95",
            "95th percentile of requests' durations by their bottleneck." + _NEEDS,
            "the highest line is the cause to choose above.",
            (
                TraceQuery(
                    f"{{ {_SERVER} && {_MODEL} }} | quantile_over_time(span:duration, 0.95) "
                    f"by ({_span(BOTTLENECK)})",
                    metric=True,
                ),
            ),
            unit="s",
        ),
        Panel(
            "Requests by bottleneck",
            "Requests a second by their largest avoidable part." + _NEEDS,
            "compare with *Largest avoidable part* on Overview: that counts every request, this "
            "the traces that were kept.",
            (
                TraceQuery(
                    f"{{ {_SERVER} && {_MODEL} }} | rate() by ({_span(BOTTLENECK)})", metric=True
                ),
            ),
            unit="reqps",
        ),
        _spans(
            "Host time over 100 ms",
            "Requests that waited for the host for longer than that, with all their parts.",
            "sort by the part: requests of the same cause have the same cure.",
            f"{{ {_SERVER} && {_MODEL} && {_span(HOST_EXPOSED)} > 100000000 }} | select({_PARTS})",
        ),
    ),
)

WRONG = Row(
    "What went wrong",
    (
        _spans(
            "Failed",
            "Requests that ended with an error of the server or the engine.",
            "the class of the error stands in the row; vLLM's log at that time says more.",
            f'{{ {_SERVER} && {_span(S.OUTCOME)} = "{S.Outcome.FAILED}" }} '
            f"| select({_span(S.ERROR_TYPE)}, {_span(S.HTTP_STATUS)}, {_span(S.HTTP_ROUTE)})",
            12,
        ),
        _spans(
            "Aborted",
            "Requests whose client went away.",
            "long ones without a first token: users do not wait that long; see TTFT.",
            f'{{ {_SERVER} && {_span(S.OUTCOME)} = "{S.Outcome.ABORTED}" }} '
            f"| select({_span(S.HTTP_ROUTE)}, {_span(S.RESPONSE_TTFC)}, {_span(BOTTLENECK)})",
            12,
        ),
        _spans(
            "Preempted",
            "Requests whose blocks the scheduler took away while they ran.",
            "open one: the event says how many tokens were lost; its second prefill computes them "
            "again.",
            f'{{ event:name = "{EVENT_PREEMPTED}" }}',
            12,
        ),
        _spans(
            "Incomplete traces",
            "Requests during which records of their server were lost.",
            "do not judge by their parts; Overview, *Records dropped*.",
            f"{{ {_SERVER} && {_span(S.LOSSY)} = true }} | select({_COLUMNS})",
            12,
        ),
    ),
)

TRACES = Dashboard(
    "traces",
    "Traces",
    "From a figure to the request behind it: exemplars, and the slowest requests by cause.",
    (EXEMPLARS, SLOWEST, WRONG),
    tempo=True,
    more_variables=(choices(CAUSE, "Cause", sorted(p.value for p in AVOIDABLE_PARTS)),),
)
