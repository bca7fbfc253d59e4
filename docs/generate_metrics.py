"""Writes docs/metrics.md from `vllm_codesign.semconv.metrics`: `make docs`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from vllm_codesign import semconv
from vllm_codesign.semconv import metrics as M
from vllm_codesign.settings import DEFAULT_METRICS_PORT, ENV_METRICS_PORT

PAGE = Path(__file__).with_name("metrics.md")

_INTRODUCTION = f"""\
<!-- Written by docs/generate_metrics.py from vllm_codesign/semconv/metrics.py; `make docs`. -->
# Metrics

The exporter counts every request and every step, whatever `OTEL_TRACES_SAMPLER` sends and
whether there is a store or not. vLLM's processes do nothing for it.

**Prometheus** reads `http://127.0.0.1:{DEFAULT_METRICS_PORT}/metrics`. `{ENV_METRICS_PORT}` is
another port, `HOST:PORT` another address, 0 none; who can reach the address can read it, there
is no password. A taken port is a warning that names it and is tried again every 10 s; the server
goes on. Exemplars come in the OpenMetrics format, which Prometheus asks for by itself, and are
stored with `--enable-feature=exemplar-storage`:

    scrape_configs:
      - job_name: codesign
        scrape_interval: 15s
        static_configs:
          - {{targets: ["127.0.0.1:{DEFAULT_METRICS_PORT}"], labels: {{instance: vllm-0}}}}
      - job_name: vllm
        scrape_interval: 15s
        static_configs:
          - {{targets: ["127.0.0.1:8000"], labels: {{instance: vllm-0}}}}

The [dashboards](dashboards.md#set-up) show vLLM's own metrics too, and put both beside one
another by `instance`. `deploy/prometheus/` has this as a file, with rules and alerts.

**Over OTLP** they are pushed where traces are, when `OTEL_EXPORTER_OTLP_ENDPOINT` (or
`..._METRICS_ENDPOINT`) is set. A receiver that takes traces only, as Jaeger, wants
`OTEL_METRICS_EXPORTER=none` beside it.

| variable | default | |
|---|---|---|
| `OTEL_METRICS_EXPORTER` | `otlp` with an endpoint | `none`, `console`, `prometheus` (as none) |
| `OTEL_EXPORTER_OTLP_METRICS_...` | as without `METRICS_` | `_ENDPOINT`, `_HEADERS`, ... |
| `OTEL_METRIC_EXPORT_INTERVAL` | 60000 | milliseconds between two pushes |
| `OTEL_METRIC_EXPORT_TIMEOUT` | 30000 | milliseconds |
| `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE` | `cumulative` | `delta`, `lowmemory` |
| `OTEL_METRICS_EXEMPLAR_FILTER` | `trace_based` | `always_on`, `always_off` |

**Exemplars** carry the trace and the SERVER span of the request that was measured last in each
bucket (labels `trace_id` and `span_id`). With `trace_based` those of traces that can be looked
up: stored here, or sent. Where there is a store and only some traces are sent, an exemplar may
be of one that stands in the capture alone.

**Attributes** have few values: no ids, no sessions, no process ids. The first 64 models that the
server has served (an engine had the request, or it was answered in full) keep their names; later
ones, and whatever clients asked for that it does not serve, are `other`; a request without one is
`unknown`. With `VLLM_SKIP_MODEL_NAME_VALIDATION=1` vLLM serves every name, and each counts.

**Resets.** Counters begin at 0 with each exporter, as with any process: where one is killed and
the next takes over, `rate()` and `increase()` see a reset. Nothing that the first had counted is
counted again; what it had in hand is missing, as it is from the capture (`requests_lost`). The
two counters of what is missing, `{M.RECORDS_DROPPED.name}` and `{M.LOSSES.name}`, are the
exception: they go on where the first one stood, and over OTLP keep its start. With delta
temporality that is what the first one had counted; its last deltas may never have been pushed.

**Device time** (`{M.DEVICE_TIME.name}`) is the throughput view of [accounting.md](accounting.md),
the same function over windows that are closed 5 s after the fact: the sum over its series grows
by a second a second for each engine, and over one window it is what `codesign analyze` finds in
the capture. At level `request` there is none. Everything else is there some two seconds after the
request's end at the latest.

**Tokens by source** (`{M.KV_TOKENS.name}`): `hbm`, `external` and `computed` sum to the prompt's
tokens for each engine request, so `n` choices count a prompt `n` times, as vLLM's own
`vllm:prompt_tokens_total` does; `computed_again` is a part of `computed`. `{M.TOKENS_USED.name}`
counts a prompt once.
"""


def page() -> str:
    """The whole text of docs/metrics.md."""
    constant = ", ".join(f"`{M.prometheus_label(each)}`" for each in M.CONSTANT)
    used = {a.key: a for metric in M.METRICS for a in metric.attributes}
    lines = [
        _INTRODUCTION,
        "## All metrics",
        "",
        f"On `/metrics` every series has the labels {constant} as well; over OTLP they are",
        "attributes of the resource.",
        "",
        "| metric | on `/metrics` | kind | unit | | attributes |",
        "|---|---|---|---|---|---|",
        *(_row(metric) for metric in M.METRICS),
        "",
        "## Attributes",
        "",
        "| attribute | label | |",
        "|---|---|---|",
        *(_attribute(each) for each in (*M.CONSTANT, *used.values())),
        "",
        "## Buckets",
        "",
        "Upper bounds, in the metric's unit.",
        "",
        "| metric | |",
        "|---|---|",
        *(
            f"| `{metric.name}` | {', '.join(f'{bound:g}' for bound in metric.buckets)} |"
            for metric in M.METRICS
            if metric.buckets
        ),
        "",
        "## Values",
        "",
        f"`{M.IDLE_CAUSE.key}`: `work`, {_values(semconv.IdleCause)}.",
        "",
        f"`{M.PART.key}`: {_values(semconv.Part)}.",
        "",
        f"`{semconv.OUTCOME.key}`: {_values(semconv.Outcome)}.",
        "",
        f"`{M.QUEUE_CAUSE.key}`: {_values(semconv.QueueReason)}.",
        "",
        f"`{M.PHASE.key}`: the names of the spans in [spans.md](spans.md).",
    ]
    return "\n".join(lines) + "\n"


def _row(metric: M.Metric) -> str:
    attributes = ", ".join(f"`{attribute.key}`" for attribute in metric.attributes)
    return (
        f"| `{metric.name}` | `{M.prometheus_name(metric)}` | {metric.instrument} "
        f"| `{metric.unit}` | {metric.brief} | {attributes} |"
    )


def _attribute(attribute: semconv.Attribute) -> str:
    return f"| `{attribute.key}` | `{M.prometheus_label(attribute)}` | {attribute.brief} |"


def _values(members: type[StrEnum]) -> str:
    return ", ".join(f"`{member.value}`" for member in members)


if __name__ == "__main__":
    PAGE.write_text(page())
