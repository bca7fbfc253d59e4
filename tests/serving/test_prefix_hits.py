"""Hits in the device's own cache against vLLM's counters, by the rule of the version that runs.

0.32 counts a lookup when it admits its request, 0.19 every try of a head that finds no blocks;
both count what a preempted request finds when it comes back apart.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest

from tests.support.checks import check_endings
from tests.support.mixed_load import Sent, send_all
from tests.support.serving import Traces, serve
from vllm_codesign import semconv as S

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
    ),
]
FLAGS = ("--num-gpu-blocks-override", "40", "--max-model-len", "4096")
HEAD, TAIL, OUTPUT = 1024, 400, 300
"""14 blocks of 128 tokens a request, 8 of them shared by those with the same head."""
CLIENTS = 6


@dataclass
class Run:
    """A pool that is too small for its clients, and vLLM's own counters over it."""

    requests: list[Sent]
    traces: Traces
    grown: dict[str, float]

    def sum(self, span: S.SpanKind, attribute: S.Attribute) -> int:
        found = [
            s.attributes[attribute.key]
            for r in self.requests
            for s in self.traces.one(r.trace_id).named(span.name)
        ]
        assert len(found) == len(self.requests)
        return sum(value for value in found if isinstance(value, int))


def _requests(model: str) -> list[Sent]:
    rng = random.Random(11)

    def ids(count: int) -> list[int]:
        return [rng.randrange(300, 30_000) for _ in range(count)]

    heads = [ids(HEAD) for _ in range(3)]
    sent = []
    for number in range(18):
        body: dict[str, Any] = {
            "model": model,
            "prompt": heads[number % 3] + ids(TAIL),
            "max_tokens": OUTPUT,
            "ignore_eos": True,
        }
        ours = f"{rng.getrandbits(128) | 1:032x}", f"{rng.getrandbits(64) | 1:016x}"
        sent.append(Sent("head", "/v1/completions", body, S.Outcome.COMPLETED, *ours))
    return sent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with serve(tmp_path_factory.mktemp("hits"), FLAGS) as serving:
        requests = _requests(serving.model)
        before = serving.metrics()
        asyncio.run(send_all(serving.url, requests, clients=CLIENTS))
        after = serving.metrics()
        traces = serving.traces([request.trace_id for request in requests])
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    return Run(requests, traces, grown)


def test_hits_are_vllms_own_by_its_rule(run: Run) -> None:
    every_try = version("vllm").startswith("0.19.")
    asked, hit = (
        (S.TRIES_TOKENS_ASKED, S.TRIES_TOKENS_HIT)
        if every_try
        else (S.KV_TOKENS_ASKED, S.KV_TOKENS_HIT_HBM)
    )
    theirs = [run.grown[f"vllm:prefix_cache_{name}_total"] for name in ("queries", "hits")]
    tries = run.sum(S.KV_PREFIX_LOOKUP, S.TRIES)
    admitted = [
        run.sum(S.KV_PREFIX_LOOKUP, each) for each in (S.KV_TOKENS_ASKED, S.KV_TOKENS_HIT_HBM)
    ]
    in_all = [
        run.sum(S.KV_PREFIX_LOOKUP, each) for each in (S.TRIES_TOKENS_ASKED, S.TRIES_TOKENS_HIT)
    ]
    print(
        f"vLLM {version('vllm')}: {len(run.requests)} requests, {tries} tries, "
        f"{run.grown['vllm:num_preemptions_total']:.0f} preemptions; asked and hit: vLLM {theirs}, "
        f"when admitted {admitted}, in all tries {in_all}"
    )
    assert [run.sum(S.KV_PREFIX_LOOKUP, each) for each in (asked, hit)] == theirs
    # Without repeated tries of a head that hits, the two rules are one.
    assert tries > len(run.requests)
    assert in_all[1] > admitted[1] > 0
    # A prompt does not grow while it waits.
    assert in_all[0] == tries * (HEAD + TAIL)


def test_what_a_preempted_request_finds_is_not_counted(run: Run) -> None:
    assert run.grown["vllm:num_preemptions_total"] > 0
    preempted = sum(run.sum(span, S.PREEMPTIONS) for span in (S.PREFILL, S.DECODE))
    assert preempted == run.grown["vllm:num_preemptions_total"]


def test_the_admitting_lookup_is_the_prefills(run: Run) -> None:
    assert run.sum(S.PREFILL, S.KV_TOKENS_HIT_HBM) == run.sum(
        S.KV_PREFIX_LOOKUP, S.KV_TOKENS_HIT_HBM
    )
    check_endings(run.requests, run.traces)
