"""The table of the workers: what each rank did for each step, on the host and on its device."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from vllm_codesign.hooks.device_time import DeviceClock, device_clock
from vllm_codesign.hooks.steps import ATTRIBUTE
from vllm_codesign.hooks.table import Getter, Hook, Wrapper
from vllm_codesign.hooks.wrap import swallow
from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import LEVEL, clock
from vllm_codesign.recorder.layout import DEVICE_CLOCK, DeviceWork, Kind


class Worker:
    """The step that this process is working on. One worker a process, one thread in it."""

    __slots__ = ("device", "forward_from", "forward_to", "in_execute", "key", "rank")

    def __init__(self) -> None:
        self.rank = 0
        self.reset()

    def reset(self) -> None:
        """No step: before the first, between two, after one that failed, in a forked child."""
        self.device: DeviceClock | None = None
        self.key = self.forward_from = self.forward_to = 0
        self.in_execute = False


WORKER = Worker()
os.register_at_fork(after_in_child=WORKER.reset)


def _begin(worker: Any, key: int) -> None:
    """`execute_model` is entered; `key` 0 where the step is not recorded."""
    WORKER.rank = worker.rank
    if key:
        WORKER.key = key
        device = WORKER.device = device_clock(worker)
        if device is not None:
            device.begin_step(key)
    WORKER.in_execute = True


def _abandon() -> None:
    """The step failed: nothing of it may be told of the next one."""
    device = WORKER.device
    WORKER.reset()
    if device is not None:
        try:
            device.end_range()
        except Exception:  # noqa: BLE001
            swallow()


def make_execute(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """`execute_model`: the step it belongs to comes with what EngineCore planned."""
    get_worker, get_output = getters

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        WORKER.reset()
        key = 0
        try:
            key = getattr(get_output(args, kwargs), ATTRIBUTE, 0)
            if key or LEVEL.byte[0]:
                _begin(get_worker(args, kwargs), key)
        except Exception:  # noqa: BLE001
            WORKER.reset()
            swallow()
        if not WORKER.in_execute:
            return original(*args, **kwargs)
        t0 = clock()
        try:
            result = original(*args, **kwargs)
        except BaseException:
            _abandon()
            raise
        WORKER.in_execute = False
        try:
            t1 = clock()
            device = WORKER.device
            if device is not None:
                device.end_range()
                device.end(DeviceWork.MODEL)
            active.emit(
                Kind.WORKER_EXECUTE,
                key,
                t0,
                t1,
                WORKER.forward_from,
                WORKER.forward_to,
                get_output(args, kwargs).total_num_scheduled_tokens,
                get_worker(args, kwargs).rank | (DEVICE_CLOCK if device is not None else 0),
            )
        except Exception:  # noqa: BLE001
            swallow()
        return result

    return wrapper


def make_sample(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """`sample_tokens`: always of the step executed last; vLLM refuses any other order."""
    (get_worker,) = getters

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        key, device = WORKER.key, WORKER.device
        if not key and not LEVEL.byte[0]:
            return original(*args, **kwargs)
        try:
            if device is not None:
                device.begin(DeviceWork.SAMPLE)
        except Exception:  # noqa: BLE001
            swallow()
        t0 = clock()
        try:
            result = original(*args, **kwargs)
        finally:
            WORKER.reset()  # what comes now is no longer of this step
        try:
            t1 = clock()
            if device is not None:
                device.end(DeviceWork.SAMPLE)
                device.collect()
            rank = get_worker(args, kwargs).rank
            active.emit(Kind.WORKER_SAMPLE, key, t0, t1, 0, 0, 0, rank)
        except Exception:  # noqa: BLE001
            swallow()
        return result

    return wrapper


def _forward_begins() -> None:
    device = WORKER.device
    if device is not None:
        device.begin(DeviceWork.MODEL)
    WORKER.forward_from = clock()


def _forward_ends() -> None:
    WORKER.forward_to = clock()
    device = WORKER.device
    if device is not None:
        device.forward_ended()


def make_forward(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """The model's forward, in the V1 model runner; outside a step it is a warm-up run."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not WORKER.in_execute:
            return original(*args, **kwargs)
        try:
            _forward_begins()
        except Exception:  # noqa: BLE001
            swallow()
        result = original(*args, **kwargs)
        try:
            _forward_ends()
        except Exception:  # noqa: BLE001
            swallow()
        return result

    return wrapper


def make_before_forward(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """The last call before the forward, in the V2 model runner, which has it inline."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if WORKER.in_execute:
            try:
                _forward_begins()
            except Exception:  # noqa: BLE001
                swallow()
        return result

    return wrapper


def make_after_forward(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """The first call after it."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if WORKER.in_execute and WORKER.forward_from:
            try:
                _forward_ends()
            except Exception:  # noqa: BLE001
                swallow()
        return original(*args, **kwargs)

    return wrapper


def make_draft(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """The drafter of speculative decoding, within `sample_tokens`."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        device = WORKER.device
        if device is None or not WORKER.key:
            return original(*args, **kwargs)
        try:
            device.begin(DeviceWork.DRAFT)
        except Exception:  # noqa: BLE001
            swallow()
        result = original(*args, **kwargs)
        try:
            device.end(DeviceWork.DRAFT)
        except Exception:  # noqa: BLE001
            swallow()
        return result

    return wrapper


def make_speculator(original: Callable[..., Any], getters: tuple[Getter, ...]) -> Wrapper:
    """The V2 model runner's drafter: of one of many classes, so its instance is wrapped."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        speculator = original(*args, **kwargs)
        try:
            speculator.propose = make_draft(speculator.propose, ())
        except Exception:  # noqa: BLE001
            swallow()
        return speculator

    return wrapper


_V1 = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_V2 = "vllm.v1.worker.gpu.kv_connector"

TABLE = "worker"
HOOKS: tuple[Hook, ...] = (
    Hook(
        "worker.execute_model",
        ("vllm.v1.worker.gpu_worker:Worker.execute_model",),
        make_execute,
        ("self", "scheduler_output"),
        required=False,  # the step timeline, not part of the request trace
    ),
    Hook(
        "worker.sample_tokens",
        ("vllm.v1.worker.gpu_worker:Worker.sample_tokens",),
        make_sample,
        ("self",),
        required=False,
    ),
    Hook("worker.forward", (f"{_V1}._model_forward",), make_forward, required=False),
    Hook(
        "worker.before_forward",
        (f"{_V2}:KVConnector.pre_forward",),
        make_before_forward,
        required=False,
    ),
    Hook(
        "worker.after_forward",
        (f"{_V2}:KVConnector.finish_forward", f"{_V2}:KVConnector.post_forward"),
        make_after_forward,
        required=False,
    ),
    Hook(
        "worker.before_forward.connector",
        (f"{_V2}:ActiveKVConnector.pre_forward",),
        make_before_forward,
        required=False,
    ),
    Hook(
        "worker.after_forward.connector",
        (f"{_V2}:ActiveKVConnector.finish_forward", f"{_V2}:ActiveKVConnector.post_forward"),
        make_after_forward,
        required=False,
    ),
    Hook(
        "worker.draft",
        (f"{_V1}.propose_draft_token_ids",),
        make_draft,
        required=False,  # speculative decoding only
    ),
    Hook(
        "worker.draft.v2",
        # By the name under which the runner has it: it is bound when that module is imported.
        ("vllm.v1.worker.gpu.model_runner:init_speculator",),
        make_speculator,
        required=False,
    ),
)
