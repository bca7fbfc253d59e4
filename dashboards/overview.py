"""The first page: is the server well, and if not, on which page to look on."""

from __future__ import annotations

from dashboards.health import HEALTH
from dashboards.layout import Dashboard, Row
from dashboards.panels import Panel, Query
from dashboards.queries import RANGE, mean, own, quantile, rate, share, total
from dashboards.vllm_row import VLLM
from vllm_codesign.semconv import metrics as M
from vllm_codesign.semconv.parts import BOTTLENECK
from vllm_codesign.semconv.spans import OUTCOME, Outcome

_REQUESTS = total(rate(own(M.REQUESTS), RANGE))
_DONE = rate(own(M.REQUESTS, {OUTCOME: Outcome.COMPLETED.value}), RANGE)
_EXPOSED = own(M.HOST_TIME, {M.EXPOSURE: "exposed"})
_BUSY = own(M.DEVICE_TIME, {M.DEVICE_STATE: "busy"})


def _latency(metric: M.Metric) -> tuple[Query, ...]:
    found = [
        Query(quantile(q, metric), f"p{q * 100:g}", exemplars=q == 0.95) for q in (0.5, 0.95, 0.99)
    ]
    return (*found, Query(mean(metric), "mean"))


NOW = Row(
    "Over the time shown",
    (
        Panel(
            "Requests",
            "Requests that ended, a second.",
            "none at all: look whether clients reach the server, and at *Exporter's lag* below.",
            (Query(_REQUESTS),),
            kind="stat",
            unit="reqps",
            width=4,
            height=5,
        ),
        Panel(
            "Completed",
            "Share of them that were completed: not aborted by the client, rejected or failed.",
            "*Requests by how they ended* below tells which. Rejected are the clients' doing (too "
            "long, bad parameters), aborted often their impatience: then look at TTFT.",
            (Query(share(_DONE, rate(own(M.REQUESTS), RANGE))),),
            kind="stat",
            unit="percentunit",
            width=4,
            height=5,
            base="red",
            limits=((0.95, "green"),),
        ),
        Panel(
            "TTFT p95",
            "First byte in to the first chunk of the answer, streamed requests, 95th percentile.",
            "*Where requests spend their time* says in which part. Frontend: the Frontend page. "
            "Queue: Scheduler and KV. Device: fewer or shorter prompts a step, or more devices.",
            (Query(quantile(0.95, M.TIME_TO_FIRST_TOKEN, window=RANGE)),),
            kind="stat",
            unit="s",
            width=4,
            height=5,
        ),
        Panel(
            "Duration p95",
            "First byte in to last byte out, every request, 95th percentile.",
            "compare with TTFT: if that is well, the answers are long or decoding is slow; see "
            "*Time per output token*.",
            (Query(quantile(0.95, M.REQUEST_DURATION, window=RANGE)),),
            kind="stat",
            unit="s",
            width=4,
            height=5,
        ),
        Panel(
            "Host share",
            "Of the time that completed requests waited, the share that was exposed host time "
            "(latency view): it would go if the host cost nothing.",
            "*Where requests spend their time* names the part, the Host and device page the cause.",
            (Query(share(rate(_EXPOSED, RANGE), rate(own(M.PART_TIME), RANGE))),),
            kind="stat",
            unit="percentunit",
            width=4,
            height=5,
            limits=((0.1, "yellow"), (0.2, "red")),
        ),
        Panel(
            "Device busy",
            "Share of time that the devices worked (throughput view).",
            "low with requests waiting: the host holds the device up, see *The device's time*. "
            "Low with none waiting is spare capacity, and high is what you paid for.",
            (Query(share(rate(_BUSY, RANGE), rate(own(M.DEVICE_TIME), RANGE))),),
            kind="stat",
            unit="percentunit",
            width=4,
            height=5,
        ),
    ),
)

TIME = Row(
    "Where the time goes",
    (
        Panel(
            "Where requests spend their time",
            "Seconds of a completed request by part of the accounting (latency view); stacked they "
            "are its mean duration.",
            "the widest band: `device.*` is the model's own work; `frontend.*` is the API server's "
            "(Frontend page); `queue.capacity` a full device or a full KV cache, `queue.host` and "
            "`device.gap.*` the engine's host work (Scheduler and KV); `kv.load` the connector.",
            (
                Query(
                    f"{total(rate(own(M.PART_TIME)), M.PART)} / on() group_left "
                    f"{total(rate(own(M.REQUESTS, {OUTCOME: Outcome.COMPLETED.value})))}",
                    "{{codesign_part}}",
                ),
            ),
            unit="s",
            stacked=True,
        ),
        Panel(
            "The device's time",
            "Share of the devices' time: `work`, or idle and why (throughput view).",
            "any band but `work` and `no_work` is lost throughput. `frontend`: all work was still "
            "being tokenized; `schedule`, `update`, `output`: EngineCore; `prepare`, `ipc`: the "
            "worker and the way to it. Go to Host and device.",
            (
                Query(
                    share(rate(own(M.DEVICE_TIME)), rate(own(M.DEVICE_TIME)), M.IDLE_CAUSE),
                    "{{codesign_device_cause}}",
                ),
            ),
            unit="percentunit",
            stacked=True,
            share=True,
        ),
        Panel(
            "Largest avoidable part",
            "Requests a second by their bottleneck: the largest part that can be avoided.",
            "go to Traces and choose that cause: the slowest requests with it are listed.",
            (
                Query(
                    total(rate(own(M.BOTTLENECKS)), BOTTLENECK),
                    "{{codesign_bottleneck}}",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Requests by how they ended",
            "Requests a second by outcome, whatever their HTTP status said.",
            "`failed` is the server's fault: look in its log and, in Traces, at *Failed*. "
            "`aborted` after long waits: clients give up, look at TTFT.",
            (Query(total(rate(own(M.REQUESTS)), OUTCOME), "{{codesign_outcome}}"),),
            unit="reqps",
            stacked=True,
        ),
    ),
)

LATENCY = Row(
    "Latency, as the server's edge sees it",
    (
        Panel(
            "Time to first token",
            "First byte in to the first chunk of the body. vLLM's own TTFT begins later, when its "
            "engine client takes the request: tokenizing is not in it. Dots are traces.",
            "click a dot: its trace says where that request waited.",
            _latency(M.TIME_TO_FIRST_TOKEN),
            unit="s",
        ),
        Panel(
            "Request duration",
            "First byte in to last byte out. Dots are traces.",
            "click a dot; where TTFT is well, look at *Time per output token*.",
            _latency(M.REQUEST_DURATION),
            unit="s",
        ),
        Panel(
            "Time per output token",
            "First to last token over the tokens after the first, per engine request.",
            "steps have become long or stand idle between: see *Step and schedule()* on Scheduler "
            "and KV, and the device's idle causes.",
            _latency(M.TIME_PER_OUTPUT_TOKEN),
            unit="s",
        ),
        Panel(
            "Tokens",
            "Tokens of prompts and of answers, a second.",
            "answers' tokens fall while requests wait: the engine is held up; while none wait: "
            "there is less to do.",
            (
                Query(
                    total(rate(own(M.TOKENS_USED)), M.TOKEN_TYPE),
                    "{{gen_ai_token_type}}",
                ),
            ),
            unit="cps",
        ),
    ),
)

OVERVIEW = Dashboard(
    "overview",
    "Overview",
    "Is the server well, and whose fault is it if not? What vLLM's own dashboards offer, with the "
    "host's share and where the time goes.",
    (NOW, TIME, LATENCY, VLLM, HEALTH),
)
