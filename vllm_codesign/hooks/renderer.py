"""Chat template and tokenization: waiting for the renderer's pool, and running in it.

0.32 sends both through `_SwappableExecutor.submit`. 0.19 renders templates in a plain
thread pool (its instance is wrapped, since `make_async` binds it at construction) and
tokenizes in `AsyncMicrobatchTokenizer`: one loop takes up to 32 prompts and encodes them in
one job, in the context of whichever request came first. There, jobs are told apart by the
identity of their prompts, and each prompt gets its token-proportional share of the job. With
the patch in `patches/vllm-0.19.0` several jobs run at a time; they have the same shape.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from vllm_codesign.hooks.frontend_state import ROOTS, current
from vllm_codesign.hooks.root import Root
from vllm_codesign.hooks.table import Getter, Hook, Wrapper
from vllm_codesign.hooks.wrap import constructed, swallow, timed_async
from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import LEVEL, clock
from vllm_codesign.recorder.layout import Job, Kind


class _Pool:
    """Counts the jobs of one executor."""

    __slots__ = ("finished", "finishes", "size", "submits")

    def __init__(self, size: int) -> None:
        self.size = size
        self.submits = itertools.count()
        self.finishes = itertools.count(1)
        self.finished = 0

    def enter(self) -> int:
        """A job is queued; returns the jobs queued or running before it."""
        return max(next(self.submits) - self.finished, 0)

    def leave(self, _future: Future[Any]) -> None:
        # Runs for cancelled jobs too. Two threads may store out of order: off by one, briefly.
        self.finished = next(self.finishes)


_pools: dict[int, _Pool] = {}
_waiting: dict[int, list[tuple[Root, int, int]]] = {}
"""0.19: prompts in the batch queue, by identity: (root, queued at, prompts ahead)."""


def _pool_of(executor: Any) -> _Pool:
    pool = _pools.get(id(executor))
    if pool is None:
        # An executor lives as long as its renderer, and that as long as the process.
        pool = _pools[id(executor)] = _Pool(int(getattr(executor, "_max_workers", 1)))
    return pool


def make_submit(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """`Executor.submit` of a renderer's pool."""

    @functools.wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not LEVEL.byte[0] and not ROOTS:
            return original(self, fn, *args, **kwargs)
        pool = None
        job = fn
        try:
            pool = _pool_of(self)
            job = _timed_job(fn, pool, pool.enter())
        except Exception:  # noqa: BLE001
            swallow()
        future = original(self, job, *args, **kwargs)
        if pool is not None:
            try:
                future.add_done_callback(pool.leave)
            except Exception:  # noqa: BLE001
                swallow()
        return future

    return submit


def _timed_job(fn: Any, pool: _Pool, ahead: int) -> Any:
    """The job with stamps around it, or itself where it is none of ours."""
    queued = clock()
    prompts = _batched_prompts(fn)
    if prompts is not None:
        return _batch_job(fn, prompts, pool)
    kind = _kind(fn)
    root = current() if kind else None
    if root is None:
        return fn
    return _single_job(fn, kind, root.key, queued, pool.size << 16 | min(ahead, 0xFFFF))


def _kind(fn: Any) -> int:
    """What `make_async` put into the pool, by the name of the function it wraps."""
    name = getattr(getattr(fn, "func", fn), "__name__", "")
    if name == "_tokenize_prompt":
        return Job.TOKENIZE
    if "template" in name or name in ("_render", "render"):
        return Job.TEMPLATE
    return 0


def _single_job(fn: Any, kind: int, key: int, queued: int, where: int) -> Callable[..., Any]:
    def codesign_job(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        result = None
        try:
            result = fn(*args, **kwargs)
            return result
        finally:
            end = clock()
            tokens = _tokens(result) if kind == Job.TOKENIZE and result is not None else 0
            active.emit(Kind.JOB, key, queued, start, end, tokens, where, kind)

    return codesign_job


def _tokens(result: Any) -> int:
    try:
        return len(result["prompt_token_ids"])
    except Exception:  # noqa: BLE001
        swallow()
        return 0


def _batched_prompts(fn: Any) -> list[Any] | None:
    """0.19: the prompts of a batched encode, which is a partial of the tokenizer or a lambda."""
    if not _waiting:
        return None
    if isinstance(fn, functools.partial):
        prompts = fn.args[0] if fn.args else None
    else:
        defaults = getattr(fn, "__defaults__", None)
        prompts = defaults[0] if defaults else None
    if isinstance(prompts, list) and any(id(p) in _waiting for p in prompts):
        return prompts
    return None


def _batch_job(fn: Any, prompts: list[Any], pool: _Pool) -> Callable[..., Any]:
    entries = []
    for prompt in prompts:
        queue = _waiting.get(id(prompt))
        entries.append(queue.pop(0) if queue else None)
        if queue is not None and not queue:
            del _waiting[id(prompt)]

    def codesign_batch(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        result = fn(*args, **kwargs)
        end = clock()
        try:
            _emit_shares(entries, _token_counts(result, len(entries)), start, end, pool.size)
        except Exception:  # noqa: BLE001
            swallow()
        return result

    return codesign_batch


def _token_counts(result: Any, prompts: int) -> list[int]:
    """Tokens of each prompt: one encoding of all (columns) or a list of encodings."""
    if isinstance(result, list):
        return [len(encoding["input_ids"]) for encoding in result]
    counts = [len(ids) for ids in result["input_ids"]]
    if len(counts) != prompts:
        raise ValueError(f"{len(counts)} encodings for {prompts} prompts")
    return counts


def _emit_shares(
    entries: list[tuple[Root, int, int] | None],
    counts: list[int],
    start: int,
    end: int,
    size: int,
) -> None:
    total = sum(counts) or 1
    for entry, tokens in zip(entries, counts, strict=True):
        if entry is None:
            continue
        root, queued, ahead = entry
        share = (end - start) * tokens // total
        where = size << 16 | min(ahead, 0xFFFF)
        active.emit(Kind.JOB, root.key, queued, end - share, end, tokens, where, Job.TOKENIZE)
        active.emit(Kind.JOB_BATCH, root.key, start, end, len(entries))


def _wrap_instance(renderer: Any) -> None:
    """0.19: this renderer's pool. Its subclasses bind the pool after this constructor."""
    pool = renderer._executor
    submit = make_submit(type(pool).submit, ())
    pool.submit = functools.partial(submit, pool)


def _resumed(t0: int, t1: int, _result: Any) -> None:
    """`tokenize_prompts_async` is entered when the templates are there, and left with ids."""
    root = current()
    if root is not None:
        if root.resumed is None:
            root.resumed = []
        root.resumed.append((t0, t1))


def _queue_prompt(t0: int, prompt: Any) -> None:
    root = current()
    if root is not None:
        ahead = len(_waiting)
        _waiting.setdefault(id(prompt), []).append((root, t0, ahead))


def _unqueue_prompt(_t0: int, _t1: int, _outcome: Any, prompt: Any) -> None:
    """Over: the job has taken the prompt out, unless it was cancelled, or failed before."""
    if id(prompt) not in _waiting:
        return
    root = current()
    queue = _waiting.get(id(prompt), [])
    queue[:] = [entry for entry in queue if entry[0] is not root]
    if not queue:
        _waiting.pop(id(prompt), None)


HOOKS: tuple[Hook, ...] = (
    Hook(
        "renderer.pool",
        (
            "vllm.renderers.base:_SwappableExecutor.submit",
            "vllm.renderers.base:BaseRenderer.__init__",
        ),
        lambda original, getters: (
            make_submit(original, getters)
            if original.__name__ == "submit"
            else constructed(_wrap_instance)(original, getters)
        ),
        ("self",),
    ),
    Hook(
        "renderer.tokenize",
        ("vllm.renderers.base:BaseRenderer.tokenize_prompts_async",),
        timed_async(_resumed, while_open=ROOTS),
        required=False,  # the event loop's share between two phases
    ),
    Hook(
        "renderer.batch_tokenizer",
        ("vllm.utils.async_utils:AsyncMicrobatchTokenizer.__call__",),
        timed_async(
            _unqueue_prompt, before=_queue_prompt, failed=_unqueue_prompt, while_open=ROOTS
        ),
        ("prompt",),
        versions=("0.12", "0.24"),
    ),
)
