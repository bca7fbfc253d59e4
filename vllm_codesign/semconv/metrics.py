"""Metrics of the exporter: names, instruments, units, attributes; what docs and dashboards know.

Not re-exported by the package: nothing inside vLLM needs them. `gen_ai.*` and `hw.*` are
OpenTelemetry's; the others are `codesign.*`. Attributes are of low cardinality: no ids, no
sessions, no pids. Every request counts, whatever the sampling of traces says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vllm_codesign.semconv.kv_spans import KV_CONNECTOR, KV_TIER
from vllm_codesign.semconv.parts import BOTTLENECK
from vllm_codesign.semconv.series import (
    EVENT_LOOP_LAG,
    EXPORTER_CPU_TIME,
    GPU_MEMORY_LIMIT,
    GPU_MEMORY_USAGE,
    GPU_UTILIZATION,
    HW_POWER,
    HW_TEMPERATURE,
    PROCESS_CPU,
    PROCESS_ROLE,
    PROCESS_RUN_QUEUE_WAIT,
    STATISTIC,
)
from vllm_codesign.semconv.spans import OPERATION_NAME, OUTCOME, PROVIDER_NAME, REQUEST_MODEL
from vllm_codesign.semconv.types import Attribute

Instrument = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `buckets` are upper bounds of a histogram, in its unit."""

    name: str
    instrument: Instrument
    unit: str
    """As UCUM writes it: `s`, `By`, `1` for a share, `{request}`."""
    brief: str
    attributes: tuple[Attribute, ...] = ()
    buckets: tuple[float, ...] = ()


REQUEST_BUCKETS = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56),
    *(5.12, 10.24, 20.48, 40.96, 81.92),
)
"""Of `gen_ai.server.request.duration`, as the convention advises."""
TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25),
    *(0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
"""Of `gen_ai.server.time_to_first_token`, as the convention advises."""
TPOT_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Of `gen_ai.server.time_per_output_token`, as the convention advises."""
PHASE_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""From the microseconds of a lookup to the minutes of a queue."""
STEP_BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
COUNT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

ERROR_TYPE = Attribute("error.type", "string", "Class of the error or status; only on failures.")
TOKEN_TYPE = Attribute("gen_ai.token.type", "string", "`input` or `output`.")
PHASE = Attribute("codesign.phase", "string", "Name of the phase's span, as `tokenize.wait`.")
PART = Attribute("codesign.part", "string", "Part of the accounting, as `queue.host`.")
EXPOSURE = Attribute("codesign.exposure", "string", "`exposed` or `hidden`.")
QUEUE_CAUSE = Attribute("codesign.queue.reason", "string", "Why it waited, as `no_free_blocks`.")
DEVICE_STATE = Attribute("codesign.device.state", "string", "`busy` or `idle`.")
IDLE_CAUSE = Attribute("codesign.device.cause", "string", "Why it was idle; `work` where busy.")
REQUEST_STATE = Attribute("codesign.request.state", "string", "`running` or `waiting`.")
BLOCK_OPERATION = Attribute("codesign.kv.operation", "string", "`allocated` or `evicted`.")
TOKEN_SOURCE = Attribute(
    "codesign.kv.source",
    "string",
    "Where a prompt's tokens came from: `hbm`, `external`, `computed`; and of the computed ones "
    "`computed_again`, those that had been cached before.",
)
TRANSFER = Attribute("codesign.kv.transfer", "string", "`load` or `store`.")
RECORD_KIND = Attribute("codesign.record.kind", "string", "Kind of record.")
LOSS = Attribute("codesign.loss", "string", "What was lost, as a counter of `run.json` is called.")

SERVICE_NAME = Attribute("service.name", "string", "`OTEL_SERVICE_NAME`, or `vllm`.")
SERVICE_INSTANCE = Attribute("service.instance.id", "string", "The server's run.")
ARM = Attribute(
    "codesign.arm",
    "string",
    "Which configuration is served, from `OTEL_RESOURCE_ATTRIBUTES`; `codesign bench --arm` sets "
    "it. Empty where nobody did.",
)
CONSTANT = (SERVICE_NAME, SERVICE_INSTANCE, ARM)
"""Attributes of the resource that are labels of every series on `/metrics`."""

_MODEL = (OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL)

REQUEST_DURATION = Metric(
    "gen_ai.server.request.duration",
    "histogram",
    "s",
    "First byte in to last byte out, every request.",
    (*_MODEL, ERROR_TYPE),
    REQUEST_BUCKETS,
)
TIME_TO_FIRST_TOKEN = Metric(
    "gen_ai.server.time_to_first_token",
    "histogram",
    "s",
    "First byte in to the first chunk of the body, streamed requests that were answered.",
    _MODEL,
    TTFT_BUCKETS,
)
TIME_PER_OUTPUT_TOKEN = Metric(
    "gen_ai.server.time_per_output_token",
    "histogram",
    "s",
    "First to last token over the tokens after the first, per engine request.",
    _MODEL,
    TPOT_BUCKETS,
)
REQUESTS = Metric(
    "codesign.requests",
    "counter",
    "{request}",
    "Requests that ended.",
    (REQUEST_MODEL, OUTCOME),
)
TOKENS_USED = Metric(
    "codesign.tokens",
    "counter",
    "{token}",
    "Tokens of prompts and answers.",
    (REQUEST_MODEL, TOKEN_TYPE),
)
PHASE_DURATION = Metric(
    "codesign.phase.duration",
    "histogram",
    "s",
    "Length of each phase, as its span has it.",
    (REQUEST_MODEL, PHASE),
    PHASE_BUCKETS,
)
PART_TIME = Metric(
    "codesign.part.time",
    "counter",
    "s",
    "Wall time of completed requests by part of the accounting (latency view); its sum is their "
    "duration.",
    (REQUEST_MODEL, PART),
)
HOST_TIME = Metric(
    "codesign.host.time",
    "counter",
    "s",
    "Host time of completed requests (latency view): waited for, or behind their device's work.",
    (REQUEST_MODEL, EXPOSURE),
)
BOTTLENECKS = Metric(
    "codesign.bottlenecks",
    "counter",
    "{request}",
    "Completed requests by their largest part that can be avoided.",
    (REQUEST_MODEL, BOTTLENECK),
)
QUEUE_TIME = Metric(
    "codesign.queue.time",
    "counter",
    "s",
    "Time in the scheduler's queue, by reason.",
    (REQUEST_MODEL, QUEUE_CAUSE),
)
DEVICE_TIME = Metric(
    "codesign.device.time",
    "counter",
    "s",
    "Time of each engine's device (throughput view): busy, or idle and why; its sum is the wall "
    "time that is accounted for, some seconds behind.",
    (DEVICE_STATE, IDLE_CAUSE),
)
SCHEDULE_DURATION = Metric(
    "codesign.schedule.duration",
    "histogram",
    "s",
    "Length of `schedule()`, every step.",
    (),
    STEP_BUCKETS,
)
STEP_DURATION = Metric(
    "codesign.step.duration",
    "histogram",
    "s",
    "From `schedule()` to the end of `update_from_output()`, every step.",
    (),
    STEP_BUCKETS,
)
STEP_REQUESTS = Metric(
    "codesign.step.requests", "histogram", "{request}", "Requests in a step.", (), COUNT_BUCKETS
)
ENGINE_REQUESTS = Metric(
    "codesign.engine.requests",
    "gauge",
    "{request}",
    "Requests that run and wait in the scheduler, after the last step.",
    (REQUEST_STATE,),
)
POOL_THREADS = Metric(
    "codesign.pool.threads", "gauge", "{thread}", "Threads of the renderer pools together."
)
POOL_QUEUE = Metric(
    "codesign.pool.queue",
    "gauge",
    "{job}",
    "Most jobs queued or running in the renderer pool that a job found in the last second.",
)
POOL_BUSY = Metric(
    "codesign.pool.busy",
    "counter",
    "s",
    "Time of threads of the renderer pools inside jobs: over threads and seconds it is their "
    "utilization.",
)
LOOP_LAG = Metric(
    EVENT_LOOP_LAG.name,
    "gauge",
    "s",
    "How late the API servers' event loops ran a timer of 100 ms in the last second; the worst of "
    "them.",
    (STATISTIC,),
)
KV_BLOCKS = Metric(
    "codesign.kv.blocks",
    "counter",
    "{block}",
    "Blocks that requests got, and cached blocks that were evicted for it.",
    (BLOCK_OPERATION,),
)
KV_TOKENS = Metric(
    "codesign.kv.tokens",
    "counter",
    "{token}",
    "Prompt tokens by where they came from.",
    (TOKEN_SOURCE,),
)
KV_TRANSFER_BYTES = Metric(
    "codesign.kv.transfer.bytes",
    "counter",
    "By",
    "Bytes that KV connectors moved, on one rank.",
    (TRANSFER, KV_CONNECTOR, KV_TIER),
)
KV_TRANSFER_TOKENS = Metric(
    "codesign.kv.transfer.tokens",
    "counter",
    "{token}",
    "Tokens that KV connectors moved.",
    (TRANSFER, KV_CONNECTOR, KV_TIER),
)
KV_TRANSFER_DURATION = Metric(
    "codesign.kv.transfer.duration",
    "histogram",
    "s",
    "From the order of a transfer to its known end.",
    (TRANSFER, KV_CONNECTOR, KV_TIER),
    PHASE_BUCKETS,
)
SESSIONS = Metric(
    "codesign.sessions",
    "gauge",
    "{session}",
    "Sessions (`X-Session-ID`) with a request in the last five minutes.",
)
STRANDED = Metric(
    "codesign.kv.stranded",
    "counter",
    "By.s",
    "Bytes of cached blocks times how long they lay there for nobody until they were found again "
    "or evicted; over seconds it is the mean of bytes held.",
)
RECORDS_DROPPED = Metric(
    "codesign.records.dropped",
    "counter",
    "{record}",
    "Records that were overwritten before they were read.",
    (RECORD_KIND,),
)
LOSSES = Metric(
    "codesign.losses",
    "counter",
    "{item}",
    "What is missing from captures and metrics beside single records.",
    (LOSS,),
)
EXPORTER_LAG = Metric(
    "codesign.exporter.lag",
    "gauge",
    "s",
    "Age of the oldest record that the exporter had not read when it last looked.",
)
EXPORTER_CPU = Metric(
    EXPORTER_CPU_TIME.name, "counter", "s", "CPU time of the exporter since its start."
)
PROCESS_CORES = Metric(
    PROCESS_CPU.name, "gauge", "1", "CPU time of vLLM's processes, in cores.", (PROCESS_ROLE,)
)
PROCESS_WAIT = Metric(
    PROCESS_RUN_QUEUE_WAIT.name,
    "gauge",
    "1",
    "Time in which their threads could have run and had no CPU, in cores.",
    (PROCESS_ROLE,),
)
HARDWARE = tuple(
    Metric(
        series.name,
        "gauge",
        series.unit,
        series.brief,
        tuple(a for a in series.attributes if a.key != "hw.id"),
    )
    for series in (GPU_UTILIZATION, GPU_MEMORY_USAGE, GPU_MEMORY_LIMIT, HW_POWER, HW_TEMPERATURE)
)
"""Of each GPU, as its series has it; told apart by their index."""

METRICS: tuple[Metric, ...] = (
    REQUEST_DURATION,
    TIME_TO_FIRST_TOKEN,
    TIME_PER_OUTPUT_TOKEN,
    REQUESTS,
    TOKENS_USED,
    PHASE_DURATION,
    PART_TIME,
    HOST_TIME,
    BOTTLENECKS,
    QUEUE_TIME,
    DEVICE_TIME,
    SCHEDULE_DURATION,
    STEP_DURATION,
    STEP_REQUESTS,
    ENGINE_REQUESTS,
    POOL_THREADS,
    POOL_QUEUE,
    POOL_BUSY,
    LOOP_LAG,
    KV_BLOCKS,
    KV_TOKENS,
    KV_TRANSFER_BYTES,
    KV_TRANSFER_TOKENS,
    KV_TRANSFER_DURATION,
    SESSIONS,
    STRANDED,
    RECORDS_DROPPED,
    LOSSES,
    EXPORTER_LAG,
    EXPORTER_CPU,
    PROCESS_CORES,
    PROCESS_WAIT,
    *HARDWARE,
)

_PROMETHEUS_UNITS = {
    "s": "seconds",
    "By": "bytes",
    "By.s": "byte_seconds",
    "W": "watts",
    "Cel": "celsius",
}


def prometheus_name(metric: Metric) -> str:
    """Its name on `/metrics` by OpenTelemetry's rules for Prometheus, with `_total` on counters.

    A histogram's series add `_bucket`, `_sum` and `_count`.
    """
    name = metric.name.replace(".", "_")
    unit = _PROMETHEUS_UNITS.get(metric.unit, "")
    if metric.unit == "1" and metric.instrument == "gauge":
        unit = "ratio"
    if unit and not name.endswith(f"_{unit}"):
        name = f"{name}_{unit}"
    return f"{name}_total" if metric.instrument == "counter" else name


def prometheus_label(attribute: Attribute) -> str:
    """Its label's name on `/metrics`."""
    return attribute.key.replace(".", "_")
