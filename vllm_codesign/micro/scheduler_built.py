"""A real vLLM `Scheduler` without a model: its pool is bookkeeping, its answers are made up.

What an engine would do between two calls is done here and not timed: requests are put into
the waiting queue, and a `ModelRunnerOutput` is made with one sampled token for each request
whose prompt is computed. A prompt's blocks are hashed once and for all, as EngineCore hashes
them on another thread, before the scheduler sees the request.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from vllm_codesign.micro.block_hashes import hasher
from vllm_codesign.model.errors import CodesignError

ROOM_TOKENS = 128
"""A request may grow by, beyond its prompt, unless it is told otherwise."""
_SAMPLED = 7
"""Any token: none ends a request, they are told to ignore the end."""
_SHARED = 200
"""Tokens that a prompt repeats; small integers, of which Python keeps one object each."""

# What ModelConfig must find in a folder: no weights are ever read. The context is the largest
# that a prompt and its answer need.
_MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1_048_576,
    "vocab_size": 32_000,
    "torch_dtype": "bfloat16",
}


def kv_cache_config(block_size: int, num_blocks: int) -> Any:
    """vLLM's description of a cache of one group with full attention; nothing is reserved."""
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    spec = FullAttentionSpec(
        block_size=block_size, num_kv_heads=1, head_size=64, dtype=torch.bfloat16
    )
    return KVCacheConfig(
        num_blocks=num_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the scheduler, nanoseconds of each call."""

    schedule_ns: int
    update_ns: int
    scheduled: dict[str, int]
    """Tokens by request."""
    answered: int
    """Requests that got a token."""


@dataclass(slots=True)
class Inside:
    """Time and number of the calls of one of the cache manager's methods."""

    now: Callable[[], int]
    ns: int = 0
    calls: int = 0

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = self.now()
            result = method(*args, **kwargs)
            self.ns += self.now() - begun
            self.calls += 1
            return result

        return timed


@dataclass
class Built:
    """A scheduler with room for `requests` prompts of `tokens` each, and those prompts."""

    requests: int
    tokens: int
    block_size: int
    budget: int
    """Tokens that one step may schedule."""
    room: int = ROOM_TOKENS
    """Tokens that a request may grow by: it ends when it has, and what is timed is another case."""
    now: Callable[[], int] = perf_counter_ns
    """The clock, in nanoseconds."""
    scheduler: Any = field(init=False)
    _prompts: list[list[int]] = field(init=False)
    _hashes: list[list[Any]] = field(init=False)
    _hash: Callable[[Any], Any] = field(init=False)
    _round: int = 0

    def __post_init__(self) -> None:
        """CodesignError where vLLM is missing, or its Scheduler wants to be built otherwise."""
        try:
            import vllm
        except ImportError as error:
            raise CodesignError(
                f"the scheduler cannot be timed: vLLM does not import here ({error}): install "
                "vLLM, or leave the scheduler out"
            ) from error
        try:
            self._hash = hasher("sha256", self.block_size)
            self.scheduler = _scheduler(self)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            cause = " ".join(str(error).split())[:300]
            raise CodesignError(
                f"the scheduler of vLLM {vllm.__version__} cannot be built without an engine "
                f"({type(error).__name__}: {cause}): leave it out, or use a vLLM that "
                "`codesign doctor` knows"
            ) from error
        tail = [100 + n % _SHARED for n in range(self.tokens - 2)]
        self._prompts = [[300 + n // 1_000, 300 + n % 1_000, *tail] for n in range(self.requests)]
        # The first two tokens tell prompts apart, so that no block of one is a block of another.
        self._hashes = [self._request(n, self._hash).block_hashes for n in range(self.requests)]

    @property
    def cache(self) -> Any:
        """The scheduler's `KVCacheManager`."""
        return self.scheduler.kv_cache_manager

    @property
    def free_blocks(self) -> int:
        return int(self.cache.block_pool.get_num_free_blocks())

    def add(self) -> None:
        """All prompts into the waiting queue, under new names."""
        self._round += 1
        for number in range(self.requests):
            self.scheduler.add_request(self._request(number, self._known(number)))

    def step(self) -> Step:
        begun = self.now()
        planned = self.scheduler.schedule()
        scheduled_at = self.now()
        answer, answered = self._answer(planned)
        answered_at = self.now()
        self.scheduler.update_from_output(planned, answer)
        ended = self.now()
        return Step(
            schedule_ns=scheduled_at - begun,
            update_ns=ended - answered_at,
            scheduled=dict(planned.num_scheduled_tokens),
            answered=answered,
        )

    def finish(self) -> None:
        """All requests leave; their blocks stay cached."""
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests(
            list(self.scheduler.requests), RequestStatus.FINISHED_ABORTED
        )
        # The step after a request ends tells the workers of it; it has nothing to schedule.
        left = self.step()
        if left.scheduled or self.scheduler.requests:
            raise RuntimeError("requests stayed behind that were to be finished")

    def forget(self) -> None:
        """Nothing is cached any more."""
        if not self.cache.reset_prefix_cache():
            raise RuntimeError("a request still holds blocks")

    @contextmanager
    def inside(self, name: str) -> Iterator[Inside]:
        """Time the cache manager's method `name` while the scheduler calls it."""
        found = Inside(self.now)
        setattr(self.cache, name, found.around(getattr(self.cache, name)))
        try:
            yield found
        finally:
            delattr(self.cache, name)

    def _request(self, number: int, block_hasher: Callable[[Any], Any]) -> Any:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        return Request(
            request_id=f"{self._round}-{number}",
            prompt_token_ids=self._prompts[number],
            sampling_params=SamplingParams(max_tokens=self.room, ignore_eos=True),
            pooling_params=None,
            block_hasher=block_hasher,
        )

    def _known(self, number: int) -> Callable[[Any], Any]:
        """vLLM's hasher, which has hashed this prompt before."""
        prompt = self._hashes[number]
        return lambda request: self._hash(request) if request.block_hashes else prompt

    def _answer(self, planned: Any) -> tuple[Any, int]:
        from vllm.v1.outputs import ModelRunnerOutput

        names = list(planned.num_scheduled_tokens)
        requests = (self.scheduler.requests[name] for name in names)
        # A prompt that is computed in part has nothing sampled yet.
        tokens = [
            [_SAMPLED] if request.num_computed_tokens >= request.num_tokens else []
            for request in requests
        ]
        answer = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=tokens,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
        return answer, sum(map(bool, tokens))


def _scheduler(of: Built) -> Any:
    from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.structured_output import StructuredOutputManager

    longest = of.tokens + of.room
    blocks = of.requests * -(-longest // of.block_size) + 2
    with _quiet(), tempfile.TemporaryDirectory(prefix="codesign-micro-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(_MODEL))
        config = VllmConfig(
            model_config=ModelConfig(
                model=folder, dtype="bfloat16", max_model_len=longest, skip_tokenizer_init=True
            ),
            cache_config=CacheConfig(block_size=of.block_size, enable_prefix_caching=True),
            scheduler_config=SchedulerConfig(
                max_model_len=longest,
                is_encoder_decoder=False,
                max_num_seqs=of.requests,
                max_num_batched_tokens=max(of.budget, of.requests),
                enable_chunked_prefill=True,
                async_scheduling=False,
            ),
        )
        config.cache_config.num_gpu_blocks = blocks
        return Scheduler(
            vllm_config=config,
            kv_cache_config=kv_cache_config(of.block_size, blocks),
            structured_output_manager=StructuredOutputManager(config),
            block_size=of.block_size,
            log_stats=True,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """vLLM logs what it makes of a configuration; here it is ours, not the user's."""
    logger = logging.getLogger("vllm")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
