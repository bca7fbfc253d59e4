"""The engine's host side: why requests queue, what a plan costs, what becomes of the cache."""

from __future__ import annotations

from dashboards.layout import Dashboard, Row
from dashboards.panels import Panel, Query, right_axis
from dashboards.queries import mean, own, quantile, rate, share, total, vllm
from vllm_codesign.semconv import metrics as M
from vllm_codesign.semconv.engine_spans import ENGINE_QUEUE, KV_ALLOCATE, KV_PREFIX_LOOKUP
from vllm_codesign.semconv.kv_spans import KV_CONNECTOR, KV_CONNECTOR_LOOKUP, KV_TIER

_RUNNING = total(own(M.ENGINE_REQUESTS, {M.REQUEST_STATE: "running"}))
_WAITING = total(own(M.ENGINE_REQUESTS, {M.REQUEST_STATE: "waiting"}))
_LOOKED_UP = rate(own(M.KV_TOKENS, {M.TOKEN_SOURCE: "!=computed_again"}))

QUEUE = Row(
    "Queue",
    (
        Panel(
            "Queue by reason",
            "Requests that wait in the scheduler's queue, by why: seconds waited a second.",
            "`no_free_blocks`: the cache is full; `no_slot`: `--max-num-seqs`; `token_budget`: "
            "`--max-num-batched-tokens`; `behind_head`: the head waits for one of these; "
            "`kv_load`, `kv_lookup`: the connector; `other`: a step came late.",
            (
                Query(
                    total(rate(own(M.QUEUE_TIME)), M.QUEUE_CAUSE),
                    "{{codesign_queue_reason}}",
                ),
            ),
            unit="short",
            stacked=True,
        ),
        Panel(
            "Time in the queue",
            "In the scheduler's waiting queue until the step that admits the request.",
            "*Queue by reason* beside says for what they wait.",
            (
                Query(mean(M.PHASE_DURATION, where={M.PHASE: ENGINE_QUEUE.name}), "mean"),
                Query(
                    quantile(0.95, M.PHASE_DURATION, where={M.PHASE: ENGINE_QUEUE.name}),
                    "p95",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Running and waiting",
            "Requests in the scheduler, after the last step.",
            "waiting grows without end: more comes in than is served; see the device's share of "
            "busy time before buying more.",
            (Query(_RUNNING, "running"), Query(_WAITING, "waiting")),
        ),
        Panel(
            "Sessions",
            "Sessions (`X-Session-ID`) with a request in the last five minutes.",
            "more sessions than the cache holds contexts: see *Prompt tokens by source*.",
            (Query(total(own(M.SESSIONS)), "sessions"),),
        ),
    ),
)

COST = Row(
    "What planning costs",
    (
        Panel(
            "schedule() against running and waiting",
            "Mean length of `schedule()`; at the right the requests it had to look at.",
            "it grows with `waiting`: the head is looked up again in every step; it grows with "
            "`running`: fewer at once, or longer steps. Its time is exposed unless scheduling is "
            "asynchronous.",
            (
                Query(mean(M.SCHEDULE_DURATION), "schedule()"),
                Query(_RUNNING, "running"),
                Query(_WAITING, "waiting"),
            ),
            unit="s",
            overrides=(right_axis("running", "short"), right_axis("waiting", "short")),
        ),
        Panel(
            "schedule() for each request in a step",
            "Time in `schedule()` over requests that were in steps.",
            "constant: it grows as the batch does; growing: the plan itself has become dearer, "
            "look at lookups and allocations.",
            (
                Query(
                    f"{total(rate(own(M.SCHEDULE_DURATION, suffix='_sum')))} / "
                    f"{total(rate(own(M.STEP_REQUESTS, suffix='_sum')))}",
                    "a request",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Step and schedule()",
            "95th percentile of a step, from its plan to the end of its update, and of its plan.",
            "`schedule()` is a large part of the step: the device waits for plans.",
            (
                Query(quantile(0.95, M.STEP_DURATION), "step p95"),
                Query(quantile(0.95, M.SCHEDULE_DURATION), "schedule() p95"),
                Query(mean(M.STEP_DURATION), "step mean"),
            ),
            unit="s",
        ),
        Panel(
            "Requests in a step",
            "Mean number, and steps a second.",
            "few in a step while others wait: blocks or slots lack.",
            (
                Query(mean(M.STEP_REQUESTS), "requests"),
                Query(total(rate(own(M.STEP_REQUESTS, suffix="_count"))), "steps/s"),
            ),
            overrides=(right_axis("steps/s", "ops"),),
        ),
        Panel(
            "Lookups and allocations at admission",
            "Mean of the calls of the step that admits a request.",
            "the connector's lookup is on the plan's path: a slow one holds up every request.",
            (
                Query(
                    mean(
                        M.PHASE_DURATION,
                        M.PHASE,
                        where={
                            M.PHASE: "=~"
                            f"{KV_PREFIX_LOOKUP.name}|{KV_CONNECTOR_LOOKUP.name}|{KV_ALLOCATE.name}"
                        },
                    ),
                    "{{codesign_phase}}",
                ),
            ),
            unit="s",
            width=24,
        ),
    ),
)

CACHE = Row(
    "KV cache",
    (
        Panel(
            "Prompt tokens by source",
            "Where prompts' tokens came from: found in the device's cache (`hbm`), brought by a "
            "connector (`external`), or computed.",
            "`computed` grows while prompts share their beginnings: the cache is too small or "
            "routing spreads sessions over instances.",
            (Query(total(_LOOKED_UP, M.TOKEN_SOURCE), "{{codesign_kv_source}}"),),
            unit="cps",
            stacked=True,
        ),
        Panel(
            "Computed again",
            "Of prompts' tokens, the share that had been cached before and was evicted since: "
            "KV thrash.",
            "runbook, CodesignKvThrash: more memory for the cache, fewer sessions an instance, or "
            "a second tier.",
            (
                Query(
                    share(rate(own(M.KV_TOKENS, {M.TOKEN_SOURCE: "computed_again"})), _LOOKED_UP),
                    "computed again",
                ),
            ),
            unit="percentunit",
            share=True,
            limits=((0.1, "red"),),
        ),
        Panel(
            "Blocks allocated and evicted",
            "Blocks that requests got, and cached blocks that were evicted for it, a second.",
            "as many evicted as allocated: the cache is full of what may be asked for again; see "
            "*Computed again* for whether it is.",
            (Query(total(rate(own(M.KV_BLOCKS)), M.BLOCK_OPERATION), "{{codesign_kv_operation}}"),),
            unit="ops",
        ),
        Panel(
            "KV cache in use",
            "Share of the blocks that running requests hold, as vLLM says. From vLLM's own "
            "/metrics.",
            "near 1: new requests wait for blocks, or running ones are preempted.",
            (
                Query(
                    f"max by (instance, engine) ({vllm('kv_cache_usage_perc')})",
                    "{{instance}} {{engine}}",
                ),
            ),
            unit="percentunit",
            share=True,
        ),
        Panel(
            "Stranded",
            "Bytes of cached blocks that lie there for nobody until they are found again or "
            "evicted: the mean, counted when that is known.",
            "large, and found again: that is the cache at work; large with much *Computed again*: "
            "the wrong blocks are kept. Agents that wait for tools leave theirs.",
            (Query(total(rate(own(M.STRANDED))), "held for nobody"),),
            unit="bytes",
        ),
        Panel(
            "Preemptions",
            "Running requests that lost their blocks, a second. From vLLM's own /metrics.",
            "what they had computed is computed again: lower `--max-num-seqs`.",
            (Query(total(rate(vllm("num_preemptions_total"))), "preemptions"),),
            unit="ops",
        ),
    ),
)

_TO = "{{codesign_kv_transfer}} {{codesign_kv_connector}} {{codesign_kv_tier}}"
_BY = (M.TRANSFER, KV_CONNECTOR, KV_TIER)

TIERS = Row(
    "KV connectors (empty without one)",
    (
        Panel(
            "Bytes moved, by tier",
            "Bytes a second that connectors load and store, on one rank. A connector that another "
            "one calls is told with that one's name and a slash before its own, and counts twice "
            "if both are summed.",
            "stores far above loads: what is stored is not asked for again, or only elsewhere.",
            (Query(total(rate(own(M.KV_TRANSFER_BYTES)), *_BY), _TO),),
            unit="Bps",
        ),
        Panel(
            "Tokens moved, by tier",
            "Tokens a second that connectors load and store.",
            "loads fall while *Computed again* grows: the tier lost them, or its lookup fails.",
            (Query(total(rate(own(M.KV_TRANSFER_TOKENS)), *_BY), _TO),),
            unit="cps",
        ),
        Panel(
            "Transfers: time",
            "From the order of a transfer to its known end.",
            "a load that takes longer than computing the same tokens (see `prefill` in Phases) is "
            "worth less than none.",
            (
                Query(mean(M.KV_TRANSFER_DURATION, *_BY), f"{_TO} mean"),
                Query(quantile(0.95, M.KV_TRANSFER_DURATION, *_BY), f"{_TO} p95"),
            ),
            unit="s",
            width=24,
        ),
    ),
)

SCHEDULER_KV = Dashboard(
    "scheduler-kv",
    "Scheduler and KV",
    "Why requests queue, what a plan costs, where prompts' tokens come from and what is lost.",
    (QUEUE, COST, CACHE, TIERS),
)
