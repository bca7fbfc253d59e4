"""Requests that do not end where, or begin how, most do."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.checks import check_nesting, coverage
from tests.support.mixed_load import text
from tests.support.one_request import Answer, exchange, post
from tests.support.serving import Serving, Traces, wait_until, wait_until_closed
from vllm_codesign import semconv as S

pytestmark = pytest.mark.vllm

PHASES = (S.ENGINE_DISPATCH, S.ENGINE_QUEUE, S.PREFILL, S.DECODE, S.ENGINE_RETURN)


TOKENS = list(range(300, 420))
LISTS_OF_TOKENS = [list(range(300, 340)), list(range(500, 620))]
STOPS = 6


@dataclass
class Run:
    """Every request of this file, by kind, and the traces once all are stored."""

    background: Answer
    stopped: list[Answer]
    tokens: list[Answer]
    logprobs: Answer
    traces: Traces


@pytest.fixture(scope="module")
def run(serving: Serving) -> Run:
    """All of them sent, and read back once: a segment of the store stays open for 10 s."""
    url, model = serving.url, serving.model
    background = post(
        url,
        "/v1/responses",
        {
            "model": model,
            "input": text(80, random.Random(1)),
            "background": True,
            "store": True,
            "max_output_tokens": 600,
        },
    )
    assert background.status == 200, background.text
    assert background.body["status"] == "queued"
    stopped = [
        post(
            url,
            "/v1/chat/completions",
            {
                "model": model,
                "messages": [{"role": "user", "content": text(50, random.Random(seed))}],
                "max_tokens": 2000,
                "ignore_eos": True,
                "stop": ["e", "a", "t"],
                "seed": seed,
            },
        )
        for seed in range(STOPS)
    ]
    completion: dict[str, Any] = {"model": model, "max_tokens": 12, "ignore_eos": True}
    tokens = [
        post(url, "/v1/completions", {**completion, "prompt": prompt})
        for prompt in (TOKENS, LISTS_OF_TOKENS)
    ]
    logprobs = post(
        url,
        "/v1/completions",
        {**completion, "prompt": text(300, random.Random(3)), "prompt_logprobs": 2, "logprobs": 2},
    )
    wait_until(lambda: _status(serving, background) != "in_progress", 60, "the background work")
    # Sent last, so that its trace is in the store when those of the others are.
    last = post(url, "/v1/completions", {**completion, "prompt": "import os"})
    answers = [background, *stopped, *tokens, logprobs, last]
    assert all(a.status == 200 for a in answers), [a.text for a in answers if a.status != 200]
    return Run(background, stopped, tokens, logprobs, serving.traces([a.trace_id for a in answers]))


def _status(serving: Serving, background: Answer) -> str:
    code, body = exchange(f"{serving.url}/v1/responses/{background.body['id']}", None, {})
    assert code == 200, body
    status = str(json.loads(body)["status"])
    return "in_progress" if status == "queued" else status


def test_background_work_is_told_in_a_linked_trace(run: Run) -> None:
    trace = run.traces.one(run.background.trace_id)
    assert trace.root.attributes[S.OUTCOME.key] == S.Outcome.COMPLETED
    (linked,) = run.traces.linked_to(trace)
    assert linked.root.name == S.ENGINE_REQUEST.name
    assert linked.root.start_ns >= trace.root.end_ns
    assert linked.root.attributes[S.OUTCOME.key] == S.Outcome.COMPLETED
    check_nesting(Traces([trace, linked], {}))
    names = {span.name for part in (trace, linked) for span in part.spans}
    assert {kind.name for kind in PHASES} <= names
    print(f"response {trace.root.duration_ns / 1e6:.1f} ms, {linked.root.duration_ns / 1e6:.1f} ms")


def test_background_work_is_not_left_open(run: Run, serving: Serving) -> None:
    wait_until_closed(serving.session)


def test_a_stop_string_ends_the_trace_with_the_response(run: Run) -> None:
    """The API server finds the string; the engine learns of it a step later."""
    met = 0
    for answer in run.stopped:
        trace = run.traces.one(answer.trace_id)
        reason = answer.body["choices"][0]["finish_reason"]
        met += reason == "stop"
        assert trace.root.attributes[S.OUTCOME.key] == S.Outcome.COMPLETED
        assert trace.root.attributes[S.RESPONSE_FINISH_REASONS.key] == (reason,)
        (decode,) = trace.named(S.DECODE.name)
        assert decode.attributes[S.TOKENS.key] == answer.body["usage"]["completion_tokens"]
        for linked in run.traces.linked_to(trace):
            assert linked.root.duration_ns < 1e9, linked
    assert met >= STOPS / 2, "the stop strings were hardly met: nothing was tested"


@pytest.mark.parametrize("choices", [1, 2], ids=["tokens", "lists of tokens"])
def test_a_prompt_of_tokens_needs_no_tokenization(run: Run, choices: int) -> None:
    answer = run.tokens[choices - 1]
    trace = run.traces.one(answer.trace_id)
    assert trace.root.attributes[S.OUTCOME.key] == S.Outcome.COMPLETED
    usage = answer.body["usage"]
    assert trace.root.attributes[S.USAGE_INPUT_TOKENS.key] == usage["prompt_tokens"]
    assert trace.root.attributes[S.USAGE_OUTPUT_TOKENS.key] == usage["completion_tokens"]
    assert not trace.named(S.TOKENIZE_ENCODE.name)
    for kind in PHASES:
        assert len(trace.named(kind.name)) == choices, kind.name
    assert coverage(trace) >= 0.95


def test_prompt_logprobs_are_one_trace_like_any_other(run: Run) -> None:
    trace = run.traces.one(run.logprobs.trace_id)
    assert trace.root.attributes[S.OUTCOME.key] == S.Outcome.COMPLETED
    for kind in PHASES:
        assert len(trace.named(kind.name)) == 1, kind.name
    (decode,) = trace.named(S.DECODE.name)
    assert decode.attributes[S.TOKENS.key] == 12
    assert coverage(trace) >= 0.95
