"""What would change a cause of waiting, and at most how much: the one table of it.

`analyze`, the report and `docs/report.md` print these rows. A flag named here is one of vLLM's,
and what it can remove is bounded by the time under its cause, never promised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_codesign.semconv import IdleCause, Part, QueueReason
from vllm_codesign.store.capture import RunInfo

POOL = "frontend.wait: pool"
"""Of `frontend.wait`, what is spent queued for a thread of the renderer pool."""
LOOP = "frontend.wait: other"
_MOST_WORKERS = 8
_OLD = (0, 19)


@dataclass(frozen=True, slots=True)
class Cure:
    """One cause of avoidable time. `change` may name `{workers}`."""

    cause: str
    """A `Part`, or one half of `frontend.wait`."""
    label: str
    part: Part
    idle: IdleCause | None
    """The same cause in the throughput view, where it has one."""
    change: str
    at_most: str
    old_change: str = ""
    """For vLLM 0.19, where it differs."""
    idle_label: str = ""
    """In the throughput view, where the label would say too much."""


CURES = (
    Cure(
        POOL,
        "tokenizer pool wait",
        Part.FRONTEND_WAIT,
        IdleCause.FRONTEND,
        "`--renderer-num-workers {workers}`",
        "the wait, not the tokenizing; nothing where the API server has one CPU",
        old_change="`--api-server-count` (0.19 tokenizes in one serial loop per API server)",
        idle_label="all work still in the API server",
    ),
    Cure(
        LOOP,
        "waiting in the API server",
        Part.FRONTEND_WAIT,
        None,
        "`--api-server-count`, or `--stream-interval` against work per token in the event loop",
        "the wait for the event loop; not that for a slow client's own body",
    ),
    Cure(
        Part.FRONTEND_CPU.value,
        "work in the API server",
        Part.FRONTEND_CPU,
        None,
        "shorter prompts, or a faster core for the API server",
        "what tokenizing and the template take; more workers do not make one prompt faster",
    ),
    Cure(
        Part.IPC.value,
        "the way to EngineCore and back",
        Part.IPC,
        IdleCause.IPC,
        "cores of their own for EngineCore and the API servers; fewer tokens a step "
        "(`--max-num-batched-tokens`), since new requests wait for the step under way",
        "the way; a request can still arrive in the middle of a step",
    ),
    Cure(
        Part.QUEUE_HOST.value,
        "queued while the device idles",
        Part.QUEUE_HOST,
        None,
        "{ahead}",
        "all of it, where the next step can be planned ahead",
    ),
    Cure(
        Part.GAP_PREPARE.value,
        "preparing batches on the worker",
        Part.GAP_PREPARE,
        IdleCause.PREPARE,
        "{ahead}; no `--enforce-eager`",
        "what can be prepared while the device works on the step before",
    ),
    Cure(
        Part.GAP_SCHEDULE.value,
        "planning steps in EngineCore",
        Part.GAP_SCHEDULE,
        IdleCause.SCHEDULE,
        "{ahead}; fewer requests at a time (`--max-num-seqs`)",
        "what can be planned while the device works on the step before",
    ),
    Cure(
        Part.GAP_UPDATE.value,
        "taking results back in EngineCore",
        Part.GAP_UPDATE,
        IdleCause.UPDATE,
        "{ahead}; no logprobs and fewer stop conditions where they are not needed",
        "what can be done while the device works on the next step",
    ),
    Cure(
        Part.GAP_IPC.value,
        "messages between EngineCore and its workers",
        Part.GAP_IPC,
        IdleCause.IPC,
        "{ahead}; cores of their own for EngineCore and each worker; "
        "`--distributed-executor-backend uni` for one device",
        "the messages and the wake-ups",
    ),
    Cure(
        Part.GAP_OUTPUT.value,
        "handing out tokens in EngineCore",
        Part.GAP_OUTPUT,
        IdleCause.OUTPUT,
        "{ahead}; a core of its own for EngineCore",
        "what can be handed out while the device works on the next step",
    ),
    Cure(
        Part.GAP_OTHER.value,
        "idle for no known cause",
        Part.GAP_OTHER,
        IdleCause.OTHER,
        "nothing that this capture knows: `codesign doctor` names hooks that are missing",
        "not known",
    ),
    Cure(
        Part.QUEUE_CAPACITY.value,
        "waiting for a busy or full device",
        Part.QUEUE_CAPACITY,
        None,
        "more devices{limit}",
        "all of it",
    ),
    Cure(
        Part.KV_LOAD.value,
        "loading KV from another tier",
        Part.KV_LOAD,
        IdleCause.KV_LOAD,
        "a faster tier, or no load for prompts that are computed sooner (`--kv-transfer-config`)",
        "the load; its tokens then have to be computed",
    ),
)
"""In the order of a request's way. `Part.ENGINE_QUEUE` has none: below level `step` nothing says
what the queue waited for."""

AHEAD = "steps planned ahead (the default on GPUs: no `--no-async-scheduling`)"
NOT_AHEAD = "a GPU: vLLM's CPU backend plans each step after the one before"
"""vLLM sets the flag back on its CPU backend, whatever it was given."""
ONE_CPU = "a second core for the API server, then `--renderer-num-workers 2`"

BY_IDLE = {cure.idle: cure for cure in CURES if cure.idle is not None and cure.cause != Part.IPC}


_LIMITS = {
    QueueReason.NO_FREE_BLOCKS: ", or more KV blocks on them (`--gpu-memory-utilization`, "
    "`--kv-cache-dtype`)",
    QueueReason.PREEMPTION: ", or more KV blocks on them (`--gpu-memory-utilization`, "
    "`--kv-cache-dtype`)",
    QueueReason.NO_SLOT: ", or more requests at a time (`--max-num-seqs`)",
    QueueReason.TOKEN_BUDGET: ", or more tokens a step (`--max-num-batched-tokens`)",
}
"""By what stopped the head of the queue: KV blocks help nobody who waits for something else."""


def change(
    cure: Cure,
    clients: int | None,
    run: RunInfo | None,
    queued: Mapping[str, float] | None = None,
) -> str:
    """What would change it on this server, as far as the capture tells. `queued`: time by
    `QueueReason`."""
    if cure.old_change and _version(run)[:2] == _OLD:
        return cure.old_change
    heads = {r: ms for r, ms in (queued or {}).items() if r != QueueReason.BEHIND_HEAD}
    held = max(heads, key=lambda reason: heads[reason], default="")
    limit = next((text for reason, text in _LIMITS.items() if reason == held), "")
    if cure.cause == POOL and _cpus(run) == [1]:
        return ONE_CPU
    ahead = NOT_AHEAD if _on_cpu(run) else AHEAD
    return cure.change.format(workers=workers(clients, run), limit=limit, ahead=ahead)


def workers(clients: int | None, run: RunInfo | None) -> int:
    """One thread for each client and no more than CPUs that the API server may use; 2 to 8."""
    return max(2, min([_MOST_WORKERS, *([clients] if clients else []), *_cpus(run)]))


def _cpus(run: RunInfo | None) -> list[int]:
    """How many each API server may use, where it is known."""
    processes = run.cpu.processes if run is not None and run.cpu is not None else []
    return [process.cpu_count for process in processes if "api_server" in process.role]


def _on_cpu(run: RunInfo | None) -> bool:
    return run is not None and run.versions.get("vllm", "").endswith("+cpu")


def _version(run: RunInfo | None) -> tuple[int, ...]:
    text = run.versions.get("vllm", "") if run is not None else ""
    return tuple(int(piece) for piece in text.split(".")[:2] if piece.isdigit())
