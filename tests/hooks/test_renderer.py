"""Template and tokenizer jobs: what waited, what ran, and whose they were."""

import asyncio
import functools
import itertools
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_codesign.hooks import renderer
from vllm_codesign.hooks.frontend_state import CURRENT
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.hooks.root import Root
from vllm_codesign.hooks.wrap import timed_async
from vllm_codesign.recorder.layout import Job, Kind
from vllm_codesign.recorder.reader import Record


class Pool(ThreadPoolExecutor):
    """As vLLM's `_SwappableExecutor`, wrapped."""


Pool.submit = renderer.make_submit(ThreadPoolExecutor.submit, ())  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def clean(recording: Any) -> Any:
    renderer._pools.clear()
    renderer._waiting.clear()
    yield
    assert renderer._waiting == {}, "nothing may be left behind"


def under(root: Root | None, submit: Any) -> Any:
    """Runs `submit` in the context of a request."""
    token = CURRENT.set(root)
    try:
        return submit()
    finally:
        CURRENT.reset(token)


def _tokenize_prompt(prompt: str) -> dict[str, list[int]]:
    return {"prompt_token_ids": list(range(len(prompt)))}


def render_template() -> str:
    return "rendered"


def jobs(records: list[Record]) -> list[Record]:
    return [r for r in records if r.kind == Kind.JOB]


def test_one_thread_one_after_the_other(recording: Any) -> None:
    roots = [Root() for _ in range(3)]
    release = threading.Event()
    with Pool(1) as pool:
        blocker = under(None, lambda: pool.submit(release.wait))
        futures = [
            under(root, functools.partial(pool.submit, _tokenize_prompt, "x" * (10 + i)))
            for i, root in enumerate(roots)
        ]
        release.set()
        results = [future.result() for future in futures]
        blocker.result()
    assert [len(r["prompt_token_ids"]) for r in results] == [10, 11, 12]
    found = jobs(recording.take())
    assert [(r.key, r.s, r.b, r.c >> 16, r.c & 0xFFFF) for r in found] == [
        (root.key, Job.TOKENIZE, 10 + i, 1, 1 + i) for i, root in enumerate(roots)
    ]
    for r in found:
        assert r.t0 <= r.t1 <= r.a
    for one, other in itertools.pairwise(found):
        assert one.a <= other.t1, "one thread runs one job at a time"


@pytest.mark.parametrize(
    ("fn", "kind"),
    [
        (render_template, Job.TEMPLATE),
        (functools.partial(render_template), Job.TEMPLATE),
        (lambda: 1, 0),
        (len, 0),
    ],
)
def test_kinds_of_jobs(recording: Any, fn: Any, kind: int) -> None:
    root = Root()
    with Pool(2) as pool:
        under(root, lambda: pool.submit(fn, *([""] if fn is len else []))).result()
    assert [(r.key, r.s, r.b) for r in jobs(recording.take())] == (
        [(root.key, kind, 0)] if kind else []
    )


def test_work_of_nobodys_is_not_recorded(recording: Any) -> None:
    ended = Root()
    ended.ended = True
    with Pool(1) as pool:
        for root in (None, ended):
            assert under(root, lambda: pool.submit(render_template)).result() == "rendered"
    assert recording.take() == []


def test_cancelled_jobs_leave_the_queue(recording: Any) -> None:
    release = threading.Event()
    root = Root()
    with Pool(1) as pool:
        blocker = pool.submit(release.wait)
        cancelled = [under(root, lambda: pool.submit(render_template)) for _ in range(3)]
        assert all(future.cancel() for future in cancelled)
        last = under(root, lambda: pool.submit(render_template))
        release.set()
        assert (blocker.result(), last.result()) == (True, "rendered")
        with pytest.raises(CancelledError):
            cancelled[0].result()
        again = under(root, lambda: pool.submit(render_template))
        again.result()
    ahead = [r.c & 0xFFFF for r in jobs(recording.take())]
    assert ahead == [1, 0]


def test_a_job_that_fails_is_recorded_and_fails(recording: Any) -> None:
    def bad_template() -> None:
        raise ValueError("theirs")

    with Pool(1) as pool, pytest.raises(ValueError, match="theirs"):
        under(Root(), lambda: pool.submit(bad_template)).result()
    (job,) = jobs(recording.take())
    assert (job.s, job.b) == (Job.TEMPLATE, 0)


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("result", [{}, {"prompt_token_ids": None}, [1, 2]])
def test_a_result_that_we_cannot_read_reaches_vllm(recording: Any, result: Any) -> None:
    def job(_: str) -> Any:
        return result

    job.__name__ = "_tokenize_prompt"
    with Pool(1) as pool:
        assert under(Root(), lambda: pool.submit(job, "x")).result() is result
    assert [r.b for r in jobs(recording.take())] == [0]
    assert recording.ring.errors == 1


# What 0.19.0 does: one loop takes what has queued up and encodes it in one job.


class Tokenizer:
    """Counts a token a character; encodes one prompt or a list of them."""

    def __call__(self, prompts: Any, **_: Any) -> Any:
        return {"input_ids": [[0] * len(prompt) for prompt in prompts]}


class Batcher:
    """The shape of `AsyncMicrobatchTokenizer`: a queue, a batch loop, a pool of one thread."""

    def __init__(self, as_lambda: bool, pool: Any) -> None:
        self.pool = pool
        self.as_lambda = as_lambda
        self.queue: list[tuple[str, asyncio.Future[Any]]] = []

    async def __call__(self, prompt: str, **kwargs: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.queue.append((prompt, future))
        return await future

    async def run_batch(self) -> None:
        batch, self.queue = self.queue, []
        prompts = [prompt for prompt, _ in batch]
        tokenizer = Tokenizer()
        if self.as_lambda:
            encode = lambda prompts=prompts: [tokenizer([p]) for p in prompts]  # noqa: E731
        else:
            encode = functools.partial(tokenizer, prompts)
        result = await asyncio.get_running_loop().run_in_executor(self.pool, encode)
        for index, (_, future) in enumerate(batch):
            if not future.done():
                future.set_result(index if isinstance(result, list) else result)


make_queued = timed_async(
    renderer._unqueue_prompt, before=renderer._queue_prompt, failed=renderer._unqueue_prompt
)
Batcher.__call__ = make_queued(  # type: ignore[method-assign]
    Batcher.__call__, getters_for(Batcher.__call__, ("prompt",))
)


def pool_of_019() -> Any:
    """A plain pool, wrapped where the renderer holds it."""
    holder = SimpleNamespace(_executor=ThreadPoolExecutor(1))
    renderer._wrap_instance(holder)
    return holder._executor


async def test_shares_of_a_batch(recording: Any) -> None:
    pool = pool_of_019()
    batcher = Batcher(False, pool)
    roots = [Root() for _ in range(3)]

    async def request(root: Root, prompt: str) -> None:
        CURRENT.set(root)
        await batcher(prompt)

    lengths = (30, 10, 60)
    tasks = [
        asyncio.create_task(request(root, "x" * n)) for root, n in zip(roots, lengths, strict=True)
    ]
    await asyncio.sleep(0)
    await batcher.run_batch()
    await asyncio.gather(*tasks)
    pool.shutdown()
    records = recording.take()
    assert [r.kind for r in records] == [Kind.JOB, Kind.JOB_BATCH] * 3
    batches = records[1::2]
    assert {(b.t0, b.t1, b.a) for b in batches} == {(batches[0].t0, batches[0].t1, 3)}
    duration = batches[0].t1 - batches[0].t0
    for job, batch, root, length, ahead in zip(
        records[::2], batches, roots, lengths, range(3), strict=True
    ):
        assert job.key == batch.key == root.key
        assert (job.s, job.b, job.c) == (Job.TOKENIZE, length, 1 << 16 | ahead)
        assert job.a == batch.t1
        assert job.a - job.t1 == duration * length // 100
        assert job.t0 <= batch.t0 <= job.t1


async def test_a_list_of_encodings_and_one_who_left(recording: Any) -> None:
    """Encoded one by one (the lambda), with a cancelled and an untraced request in the batch."""
    pool = pool_of_019()
    batcher = Batcher(True, pool)
    root, gone = Root(), Root()

    async def request(of: Root | None, prompt: str) -> None:
        CURRENT.set(of)
        await batcher(prompt)

    tasks = [
        asyncio.create_task(request(of, prompt))
        for of, prompt in ((root, "first"), (gone, "left"), (None, "nobody"))
    ]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    await batcher.run_batch()
    await asyncio.gather(*tasks, return_exceptions=True)
    pool.shutdown()
    found = jobs(recording.take())
    assert [(r.key, r.b) for r in found] == [(root.key, 1)], "one encoding of one column each"


async def test_the_same_prompt_twice(recording: Any) -> None:
    pool = pool_of_019()
    batcher = Batcher(False, pool)
    roots = [Root(), Root()]
    same = "the very same object"

    async def request(root: Root) -> None:
        CURRENT.set(root)
        await batcher(same)

    tasks = [asyncio.create_task(request(root)) for root in roots]
    await asyncio.sleep(0)
    await batcher.run_batch()
    await asyncio.gather(*tasks)
    pool.shutdown()
    assert [r.key for r in jobs(recording.take())] == [root.key for root in roots]


async def test_queued_and_never_encoded_by_the_pool(recording: Any) -> None:
    """Switched off between queueing and encoding: the prompt must not be remembered for ever."""

    async def encode(self: Any, prompt: str) -> str:
        return "encoded elsewhere"

    wrapper = make_queued(encode, getters_for(encode, ("prompt",)))
    CURRENT.set(Root())
    assert await wrapper(None, "prompt") == "encoded elsewhere"
    assert renderer._waiting == {}


async def test_resumed(recording: Any) -> None:
    async def tokenize_prompts_async(self: Any, prompts: Any) -> str:
        return "ids"

    wrapper = timed_async(renderer._resumed)(tokenize_prompts_async, ())
    assert await wrapper(None, []) == "ids"
    assert recording.take() == []
    root = Root()
    CURRENT.set(root)
    await wrapper(None, [])
    assert recording.take() == []
    root.tell()
    (record,) = recording.take()
    assert (record.kind, record.key) == (Kind.RESUMED, root.key)
    assert 0 < record.t0 <= record.t1
