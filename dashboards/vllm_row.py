"""What the dashboards that come with vLLM show, from vLLM's own /metrics."""

from __future__ import annotations

from dashboards.layout import Row
from dashboards.panels import Panel, Query, right_axis
from dashboards.queries import rate, total, vllm, vllm_mean, vllm_quantile

_NEEDS = (
    " From vLLM's own /metrics: it must be scraped as well, with the same `instance` label as the "
    "exporter, and it knows no arm."
)


def _quantiles(name: str) -> tuple[Query, ...]:
    found = [Query(vllm_quantile(q, name), f"p{q * 100:g}") for q in (0.5, 0.9, 0.95, 0.99)]
    return (*found, Query(vllm_mean(name), "mean"))


def _heat(title: str, name: str, shows: str, when_bad: str) -> Panel:
    buckets = f"sum by (le) (increase({vllm(name, suffix='_bucket')}[$__rate_interval]))"
    return Panel(
        title,
        shows + _NEEDS,
        when_bad,
        (Query(buckets, heatmap=True),),
        kind="heatmap",
        width=8,
    )


VLLM = Row(
    "What vLLM says of itself",
    (
        Panel(
            "vLLM: end-to-end latency",
            "From vLLM's engine client taking a request to its last token." + _NEEDS,
            "much shorter than *Request duration* above: the frontend is what makes users wait.",
            _quantiles("e2e_request_latency_seconds"),
            unit="s",
            width=8,
        ),
        Panel(
            "vLLM: time to first token",
            "From vLLM's engine client taking a request to its first token." + _NEEDS,
            "much shorter than *Time to first token* above: template and tokenizer are what makes "
            "users wait.",
            _quantiles("time_to_first_token_seconds"),
            unit="s",
            width=8,
        ),
        Panel(
            "vLLM: inter-token latency",
            "Between two tokens of a request." + _NEEDS,
            "p99 far above p50: prompts of others share the steps; smaller "
            "`--max-num-batched-tokens` trades TTFT for it.",
            _quantiles("inter_token_latency_seconds"),
            unit="s",
            width=8,
        ),
        Panel(
            "vLLM: token throughput",
            "Tokens of prompts and generated tokens, a second." + _NEEDS,
            "it falls while requests wait: see *The device's time*.",
            (
                Query(total(rate(vllm("prompt_tokens_total"))), "prompt"),
                Query(total(rate(vllm("generation_tokens_total"))), "generation"),
            ),
            unit="cps",
            width=8,
        ),
        Panel(
            "vLLM: scheduler",
            "Requests that run and that wait in the engine." + _NEEDS,
            "many wait: *Queue by reason* on Scheduler and KV says for what. None wait and users "
            "do: they are in the frontend.",
            (
                Query(total(vllm("num_requests_running")), "running"),
                Query(total(vllm("num_requests_waiting")), "waiting"),
            ),
            width=8,
        ),
        Panel(
            "vLLM: KV cache in use",
            "Share of the blocks that running requests hold." + _NEEDS,
            "near 1 requests wait for blocks or are preempted: shorter contexts, fewer at once "
            "(`--max-num-seqs`), or more memory for the cache.",
            (
                Query(
                    f"max by (instance, engine) ({vllm('kv_cache_usage_perc')})",
                    "{{instance}} {{engine}}",
                ),
            ),
            unit="percentunit",
            width=8,
            share=True,
        ),
        _heat(
            "vLLM: prompt length",
            "request_prompt_tokens",
            "Requests by the tokens of their prompt.",
            "prompts have become longer: TTFT grows with them; see whether prefix hits do, too.",
        ),
        _heat(
            "vLLM: generation length",
            "request_generation_tokens",
            "Requests by the tokens of their answer.",
            "answers have become longer: durations grow with them, and TTFT does not.",
        ),
        _heat(
            "vLLM: most tokens of a sequence",
            "request_max_num_generation_tokens",
            "Requests by the longest of their answers (`n` > 1).",
            "as for the generation length; a batch of answers ends with its longest.",
        ),
        Panel(
            "vLLM: finish reason",
            "Requests a second by why their generation ended." + _NEEDS,
            "`length` grows: answers are cut at `max_tokens`; `abort`: clients go away.",
            (
                Query(
                    total(rate(vllm("request_success_total")), "finished_reason"),
                    "{{finished_reason}}",
                ),
            ),
            unit="reqps",
            width=8,
            stacked=True,
        ),
        Panel(
            "vLLM: queue time",
            "In the scheduler's waiting queue. What a request spends in EngineCore's input queue "
            "before it is counted by nobody but `engine.dispatch` here." + _NEEDS,
            "it grows: *Queue by reason* on Scheduler and KV.",
            (
                *_quantiles("request_queue_time_seconds")[1:2],
                Query(vllm_mean("request_queue_time_seconds"), "mean"),
            ),
            unit="s",
            width=8,
        ),
        Panel(
            "vLLM: prefill and decode time",
            "Means a request." + _NEEDS,
            "prefill grows: longer prompts or fewer prefix hits; decode: longer answers or slower "
            "steps.",
            (
                Query(vllm_mean("request_prefill_time_seconds"), "prefill"),
                Query(vllm_mean("request_decode_time_seconds"), "decode"),
            ),
            unit="s",
            width=8,
        ),
        Panel(
            "vLLM: prefix cache hit rate",
            "Tokens found over tokens looked up, in the device's cache and at the KV connector. "
            "vLLM 0.19 counts every try of a request that cannot be admitted." + _NEEDS,
            "it falls: prompts no longer share their beginnings, or the cache is too small; see "
            "*Prompt tokens by source* on Scheduler and KV.",
            (
                Query(
                    f"{total(rate(vllm('prefix_cache_hits_total')))} / "
                    f"{total(rate(vllm('prefix_cache_queries_total')))}",
                    "device",
                ),
                Query(
                    f"{total(rate(vllm('external_prefix_cache_hits_total')))} / "
                    f"{total(rate(vllm('external_prefix_cache_queries_total')))}",
                    "connector",
                ),
            ),
            unit="percentunit",
            width=8,
            share=True,
        ),
        Panel(
            "vLLM: preemptions",
            "Requests that lost their blocks to others, a second; and waiting requests." + _NEEDS,
            "what a preempted request had computed is computed again: fewer at once "
            "(`--max-num-seqs`) or more memory for the cache.",
            (
                Query(total(rate(vllm("num_preemptions_total"))), "preemptions"),
                Query(total(vllm("num_requests_waiting")), "waiting"),
            ),
            unit="cps",
            width=8,
            overrides=(right_axis("waiting", "short"),),
        ),
        Panel(
            "vLLM: tokens a step",
            "Mean tokens of an engine step." + _NEEDS,
            "small steps with requests waiting: blocks or slots are what lacks, not the device.",
            (Query(vllm_mean("iteration_tokens_total"), "tokens"),),
            width=8,
        ),
    ),
)
