"""The API server: template and tokenizer pool, event loop, the way to the engine and back."""

from __future__ import annotations

from dashboards.layout import Dashboard, Row
from dashboards.panels import Panel, Query, right_axis
from dashboards.queries import INSTANCE, mean, most, own, quantile, rate, share, total
from vllm_codesign.semconv import frontend_spans as F
from vllm_codesign.semconv import metrics as M
from vllm_codesign.semconv.parts import Part
from vllm_codesign.semconv.series import PROCESS_ROLE, STATISTIC
from vllm_codesign.semconv.types import SpanKind

_NAMED = "{{codesign_phase}}"


def _phases(*spans: SpanKind) -> tuple[Query, ...]:
    where = {M.PHASE: "=~" + "|".join(span.name for span in spans)}
    return (
        Query(mean(M.PHASE_DURATION, M.PHASE, where=where), f"{_NAMED} mean"),
        Query(quantile(0.95, M.PHASE_DURATION, M.PHASE, where=where), f"{_NAMED} p95"),
    )


_UTILIZATION = f"{total(rate(own(M.POOL_BUSY)), INSTANCE)} / {total(own(M.POOL_THREADS), INSTANCE)}"

POOL = Row(
    "Template and tokenizer pool",
    (
        Panel(
            "Pool's utilization",
            "Time of the renderer pool's threads inside jobs, of all they have. vLLM renders chat "
            "templates and tokenizes in it; 0.32 gives it one thread an API server.",
            "above 0.8 every further request queues: `--renderer-num-workers`, or more API servers "
            "(`--api-server-count`). Runbook: CodesignTokenizerPoolSaturated.",
            (Query(_UTILIZATION, "{{instance}}"),),
            unit="percentunit",
            share=True,
            limits=((0.8, "yellow"), (0.9, "red")),
        ),
        Panel(
            "Pool's depth",
            "Most jobs queued or running that a job found in the last second, and the threads.",
            "more jobs than threads for long: clients wait for the tokenizer and not for the GPU. "
            "Short peaks are bursts of arrivals.",
            (
                Query(most(own(M.POOL_QUEUE), INSTANCE), "{{instance}} jobs"),
                Query(most(own(M.POOL_THREADS), INSTANCE), "{{instance}} threads"),
            ),
        ),
        Panel(
            "Waiting for the pool, and in it",
            "Chat template and tokenizer: queued in the pool, and running.",
            "`wait` far above `render` and `encode`: too few threads; `encode` itself long: long "
            "prompts, and TTFT cannot be less.",
            _phases(F.TEMPLATE_WAIT, F.TEMPLATE_RENDER, F.TOKENIZE_WAIT, F.TOKENIZE_ENCODE),
            unit="s",
            width=24,
        ),
    ),
)

LOOP = Row(
    "Event loop",
    (
        Panel(
            "Event loop's lag",
            "How late the API servers' event loops ran a timer of 100 ms in the last second: mean "
            "and worst, of the worst server.",
            "something long runs on the loop: detokenizing a long first chunk, another plugin, or "
            "no CPU (*Waiting for a CPU* beside). Runbook: CodesignEventLoopLag.",
            (
                Query(
                    most(own(M.LOOP_LAG), INSTANCE, STATISTIC),
                    "{{instance}} {{codesign_statistic}}",
                ),
            ),
            unit="s",
            limits=((0.1, "red"),),
        ),
        Panel(
            "The API servers' CPU",
            "Cores that they use, and for how many they waited.",
            "near one core each: the loop and its pool are full (one GIL); `--api-server-count`. "
            "Waiting: the machine has too few cores.",
            (
                Query(total(own(M.PROCESS_CORES, {PROCESS_ROLE: "=~.*api_server.*"})), "used"),
                Query(total(own(M.PROCESS_WAIT, {PROCESS_ROLE: "=~.*api_server.*"})), "waited"),
            ),
            unit="cores",
        ),
        Panel(
            "On the loop: waiting for it, and running",
            "`frontend.wait`: what the request waited for is there and its coroutine does not run "
            "yet; `frontend.run`: it runs.",
            "`wait` grows with the loop's lag; `run` grows with what the server does for a request "
            "in Python: tools, long messages, logging of requests.",
            _phases(F.FRONTEND_WAIT, F.FRONTEND_RUN),
            unit="s",
        ),
        Panel(
            "Receiving",
            "First byte in until the body is parsed and validated.",
            "large bodies over slow connections, or a loop that does not read: compare the lag.",
            _phases(F.HTTP_RECEIVE),
            unit="s",
        ),
    ),
)

WAY = Row(
    "To the engine and back",
    (
        Panel(
            "Dispatch",
            "Handed to the engine client until it is in the scheduler's queue: serialized, sent, "
            "and in EngineCore's input queue while a step runs.",
            "about a step long is normal, for input is taken between steps; more: EngineCore is "
            "held up, see Scheduler and KV.",
            _phases(F.ENGINE_DISPATCH),
            unit="s",
        ),
        Panel(
            "Return",
            "The last output leaves EngineCore until the API server has processed it.",
            "the output handler shares the loop: compare its lag.",
            _phases(F.ENGINE_RETURN),
            unit="s",
        ),
        Panel(
            "Streaming",
            "`detokenize` and `stream.send`, from their first to their last call: they last as "
            "long as the answer does.",
            "longer than decode: the API server cannot keep up with the tokens, or clients read "
            "slowly.",
            _phases(F.DETOKENIZE, F.STREAM_SEND),
            unit="s",
        ),
        Panel(
            "The frontend's share",
            "Of the time that completed requests waited, what was the frontend's (latency view): "
            "its work, waiting in it, and the way to the engine.",
            "`frontend.wait` leads: the pool or the loop; `frontend.cpu`: what is done for each "
            "request; `ipc`: EngineCore takes new requests late.",
            tuple(
                Query(
                    share(rate(own(M.PART_TIME, {M.PART: part.value})), rate(own(M.PART_TIME))),
                    part.value,
                )
                for part in (Part.FRONTEND_CPU, Part.FRONTEND_WAIT, Part.IPC)
            ),
            unit="percentunit",
            stacked=True,
        ),
        Panel(
            "Requests and prompts' tokens",
            "What comes in: requests that ended, and tokens of their prompts, a second.",
            "tokenizing takes as long as there are tokens: twice the tokens fill the pool twice.",
            (
                Query(total(rate(own(M.REQUESTS))), "requests"),
                Query(total(rate(own(M.TOKENS_USED, {M.TOKEN_TYPE: "input"}))), "prompt tokens"),
            ),
            unit="reqps",
            width=24,
            overrides=(right_axis("prompt tokens", "cps"),),
        ),
    ),
)

FRONTEND = Dashboard(
    "frontend",
    "Frontend",
    "Do users wait for the tokenizer, for the event loop, or on the way to the engine?",
    (POOL, LOOP, WAY),
)
