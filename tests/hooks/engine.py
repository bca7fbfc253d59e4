"""As much of vLLM's scheduler and its requests as the hooks read."""

from collections import deque
from types import SimpleNamespace
from typing import Any

from vllm_codesign.hooks import engine_core


def request(name: str, **more: Any) -> Any:
    defaults: dict[str, Any] = {
        "request_id": name,
        "num_prompt_tokens": 100,
        "num_tokens": 100,
        "num_computed_tokens": 0,
        "has_encoder_inputs": False,
        "lora_request": None,
        "status": SimpleNamespace(name="WAITING"),
    }
    return _Hashable(**{**defaults, **more})


class _Hashable(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


class Queue(deque[Any]):
    def peek_request(self) -> Any:
        return self[0]


class PriorityQueue(list[Any]):
    def peek_request(self) -> Any:
        return self[0]


class Scheduler(SimpleNamespace):
    """As much of vLLM's scheduler as the hooks read."""

    def __init__(self, **more: Any) -> None:
        super().__init__(
            waiting=Queue(),
            running=[],
            requests={},
            max_num_running_reqs=4,
            max_num_scheduled_tokens=512,
            **more,
        )


def step(
    new: tuple[str, ...] = (),
    resumed: tuple[str, ...] = (),
    drafted: dict[str, list[int]] | None = None,
    **tokens: int,
) -> Any:
    return SimpleNamespace(
        scheduled_new_reqs=[SimpleNamespace(req_id=name) for name in new],
        scheduled_cached_reqs=SimpleNamespace(resumed_req_ids=set(resumed)),
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
        scheduled_spec_decode_tokens=drafted or {},
    )


def sampled(**tokens: list[int]) -> Any:
    """As much of the model runner's output as the hooks read."""
    return SimpleNamespace(
        sampled_token_ids=list(tokens.values()),
        req_id_to_index={name: index for index, name in enumerate(tokens)},
    )


def queue(scheduler: Scheduler, *requests: Any, at: int = 1) -> None:
    for each in requests:
        scheduler.waiting.append(each)
        scheduler.requests[each.request_id] = each
        engine_core._queued(at - 1, at, None, scheduler, each)
