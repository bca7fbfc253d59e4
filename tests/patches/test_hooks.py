"""What our hooks record of the patched tokenizer: each prompt's own wait and encode."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hooks.conftest import Recording, recording  # noqa: F401  # a fixture
from tests.patches import vllm_019
from vllm_codesign.hooks import renderer
from vllm_codesign.hooks.frontend_state import CURRENT
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.hooks.root import Root
from vllm_codesign.hooks.wrap import timed_async
from vllm_codesign.recorder.layout import Job, Kind
from vllm_codesign.recorder.reader import Record

pytest.importorskip("transformers")

CHAT = {"truncation": True, "max_length": 100}
"""Options as those of chat requests, which keep a prompt out of a batch."""


class Tokenizer:
    """Counts a token a character, and takes 2 ms a prompt."""

    model_max_length = 10_000

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def __call__(self, prompts: Any, **_: Any) -> dict[str, Any]:
        self.threads.add(threading.get_ident())
        if isinstance(prompts, str):
            time.sleep(0.002)
            return _Encoding(input_ids=[0] * len(prompts))
        time.sleep(0.002 * len(prompts))
        return {"input_ids": [[0] * len(prompt) for prompt in prompts]}


class _Encoding(dict[str, Any]):
    """As transformers' `BatchEncoding`: columns as keys and as attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@pytest.fixture
def hooked(patched: Path, recording: Recording) -> Iterator[Any]:  # noqa: F811
    """The class of the patched vLLM with the hook of `renderer.batch_tokenizer` around it."""
    renderer._pools.clear()
    renderer._waiting.clear()
    made = vllm_019.module_of(patched).AsyncMicrobatchTokenizer
    original = made.__call__
    made.__call__ = timed_async(
        renderer._unqueue_prompt, before=renderer._queue_prompt, failed=renderer._unqueue_prompt
    )(original, getters_for(original, ("prompt",)))
    yield made
    assert renderer._waiting == {}, "nothing may be left behind"


def pool_of(workers: int) -> Any:
    holder = SimpleNamespace(_executor=ThreadPoolExecutor(workers))
    renderer._wrap_instance(holder)
    return holder._executor


def tokenizer_of(hooked: Any, pool: Any, workers: int) -> Any:
    return hooked(Tokenizer(), executor=pool, tokenizers=[Tokenizer() for _ in range(workers)])


async def ask(tokenizer: Any, root: Root, prompt: str, options: dict[str, Any]) -> list[int]:
    CURRENT.set(root)
    return await tokenizer.encode(prompt, **options)


async def recorded(
    hooked: Any,
    recording: Recording,  # noqa: F811
    options: dict[str, Any],
    prompts: int,
) -> tuple[list[Root], list[Record]]:
    pool = pool_of(2)
    tokenizer = tokenizer_of(hooked, pool, 2)
    roots = [Root() for _ in range(prompts)]
    texts = [f"{i:03}" + "x" * i for i in range(prompts)]
    found = await asyncio.gather(
        *(
            asyncio.create_task(ask(tokenizer, root, text, options))
            for root, text in zip(roots, texts, strict=True)
        )
    )
    assert [len(ids) for ids in found] == [len(text) for text in texts]
    pool.shutdown()
    return roots, recording.take()


async def test_chat_prompts_are_jobs_of_their_own(
    hooked: Any,
    recording: Recording,  # noqa: F811
) -> None:
    roots, records = await recorded(hooked, recording, CHAT, 16)
    jobs = {r.key: r for r in records if r.kind == Kind.JOB}
    batches = {r.key: r for r in records if r.kind == Kind.JOB_BATCH}
    assert set(jobs) == set(batches) == {root.key for root in roots}
    assert len(records) == 32
    for i, root in enumerate(roots):
        job, batch = jobs[root.key], batches[root.key]
        assert (job.s, job.b, job.c >> 16) == (Job.TOKENIZE, 3 + i, 2), "tokens and pool size"
        assert batch.a == 1, "alone in its job"
        assert (job.t1, job.a) == (batch.t0, batch.t1), "its encode is the whole job"
        assert job.t0 <= job.t1
        assert job.a - job.t1 >= 2_000_000
    ordered = sorted(jobs.values(), key=lambda job: job.t1)
    for job in ordered:
        running = [other for other in ordered if other.t1 <= job.t1 < other.a]
        assert len(running) <= 2, "two threads"
    side_by_side = [one for one, other in itertools.pairwise(ordered) if other.t1 < one.a]
    assert len(side_by_side) >= 8, "not one after the other"
    assert ordered[-1].t1 - ordered[-1].t0 >= 10_000_000, "the last one waited for its turn"


async def test_batches_are_shared_out(
    hooked: Any,
    recording: Recording,  # noqa: F811
) -> None:
    roots, records = await recorded(hooked, recording, {}, 12)
    assert {r.key for r in records if r.kind == Kind.JOB} == {root.key for root in roots}
    batches = {(r.t0, r.t1): r.a for r in records if r.kind == Kind.JOB_BATCH}
    assert list(batches.values()) == [6, 6]


async def test_one_who_left_is_skipped(
    hooked: Any,
    recording: Recording,  # noqa: F811
) -> None:
    pool = pool_of(2)
    tokenizer = tokenizer_of(hooked, pool, 2)
    roots = [Root() for _ in range(6)]
    tasks = [
        asyncio.create_task(ask(tokenizer, root, f"prompt {i}", CHAT))
        for i, root in enumerate(roots)
    ]
    await asyncio.sleep(0)
    for task in tasks[4:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    pool.shutdown()
    jobs = [r for r in recording.take() if r.kind == Kind.JOB]
    assert sorted(r.key for r in jobs) == sorted(root.key for root in roots[:4])
