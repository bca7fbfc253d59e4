"""The table of the workers: how long each call of a step took on each rank."""

from __future__ import annotations

from typing import Any

from vllm_codesign.hooks.table import Hook
from vllm_codesign.hooks.wrap import timed
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Kind, WorkerCall


def _executed(t0: int, t1: int, _result: Any, worker: Any, scheduler_output: Any) -> None:
    active.emit(
        Kind.WORKER_CALL,
        worker.rank,
        t0,
        t1,
        scheduler_output.total_num_scheduled_tokens,
        len(scheduler_output.num_scheduled_tokens),
        0,
        WorkerCall.EXECUTE,
    )


def _sampled(t0: int, t1: int, _result: Any, worker: Any) -> None:
    active.emit(Kind.WORKER_CALL, worker.rank, t0, t1, 0, 0, 0, WorkerCall.SAMPLE)


TABLE = "worker"
HOOKS: tuple[Hook, ...] = (
    Hook(
        "worker.execute_model",
        ("vllm.v1.worker.gpu_worker:Worker.execute_model",),
        timed(_executed),
        ("self", "scheduler_output"),
        required=False,  # a series, not part of the request trace
    ),
    Hook(
        "worker.sample_tokens",
        ("vllm.v1.worker.gpu_worker:Worker.sample_tokens",),
        timed(_sampled),
        ("self",),
        required=False,
    ),
)
