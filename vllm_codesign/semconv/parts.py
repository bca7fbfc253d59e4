"""What wall time is made of: the parts of a request's, the causes of a device's idle time."""

from __future__ import annotations

from enum import StrEnum

from vllm_codesign.semconv.types import Attribute


class Part(StrEnum):
    """What a request's wall time is made of; every instant belongs to exactly one.

    In the order of precedence: where several apply at an instant, the first one has it.
    `docs/accounting.md` defines each.
    """

    DEVICE_PREFILL = "device.prefill"
    DEVICE_DECODE = "device.decode"
    KV_LOAD = "kv.load"
    GAP_PREPARE = "device.gap.prepare"
    GAP_SCHEDULE = "device.gap.schedule"
    GAP_UPDATE = "device.gap.update"
    GAP_IPC = "device.gap.ipc"
    GAP_OUTPUT = "device.gap.output"
    GAP_OTHER = "device.gap.other"
    # These three stand for the device's and the queue's parts where no steps were recorded.
    ENGINE_PREFILL = "engine.prefill"
    ENGINE_DECODE = "engine.decode"
    ENGINE_QUEUE = "engine.queue"
    QUEUE_CAPACITY = "queue.capacity"
    QUEUE_HOST = "queue.host"
    IPC = "ipc"
    FRONTEND_CPU = "frontend.cpu"
    FRONTEND_WAIT = "frontend.wait"
    UNATTRIBUTED = "unattributed"


HOST_PARTS = frozenset(
    (
        Part.GAP_PREPARE,
        Part.GAP_SCHEDULE,
        Part.GAP_UPDATE,
        Part.GAP_IPC,
        Part.GAP_OUTPUT,
        Part.GAP_OTHER,
        Part.QUEUE_HOST,
        Part.IPC,
        Part.FRONTEND_CPU,
        Part.FRONTEND_WAIT,
    )
)
"""The parts that are exposed host time."""
AVOIDABLE_PARTS = HOST_PARTS | {Part.QUEUE_CAPACITY, Part.ENGINE_QUEUE, Part.KV_LOAD}
"""What a `codesign.bottleneck` may be: all but the device's own work and what is not known."""


class IdleCause(StrEnum):
    """Why the device stood idle while there was work in the house (throughput view)."""

    PREPARE = "prepare"
    SCHEDULE = "schedule"
    UPDATE = "update"
    IPC = "ipc"
    OUTPUT = "output"
    OTHER = "other"
    KV_LOAD = "kv_load"
    FRONTEND = "frontend"
    NO_WORK = "no_work"


PART_TIMES = tuple(
    Attribute(f"codesign.part.{part.value}_ns", "int", f"Wall time in {part.value}.", "ns")
    for part in Part
)
HOST_EXPOSED = Attribute(
    "codesign.host.exposed_ns", "int", "Host time that the request waited for.", "ns"
)
HOST_HIDDEN = Attribute(
    "codesign.host.hidden_ns",
    "int",
    "Host work for this request while the device worked for it.",
    "ns",
)
BOTTLENECK = Attribute("codesign.bottleneck", "string", "The largest part that can be avoided.")
