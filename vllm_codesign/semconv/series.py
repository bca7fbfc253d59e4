"""Series: figures sampled once a second unless said otherwise, and their attributes."""

from __future__ import annotations

from vllm_codesign.semconv.attributes import RANK
from vllm_codesign.semconv.types import Attribute, Series

PROCESS_PID = Attribute("process.pid", "int", "Process id.")
CONTEXT_SWITCH_TYPE = Attribute(
    "process.context_switch.type", "string", "`voluntary` or `involuntary`."
)
THREAD_ID = Attribute("thread.id", "int", "Thread id in the kernel.")
THREAD_NAME = Attribute("thread.name", "string", "The thread's name in the kernel.")
HW_ID = Attribute("hw.id", "string", "UUID of the GPU.")
HW_NAME = Attribute("hw.name", "string", "What its driver calls it.")
HW_TYPE = Attribute("hw.type", "string", "Always `gpu`.")
HW_VENDOR = Attribute("hw.vendor", "string", "`NVIDIA` or `AMD`.")
HW_GPU_TASK = Attribute("hw.gpu.task", "string", "Always `general`: no encoders and decoders.")
GPU_INDEX = Attribute("codesign.gpu.index", "int", "The driver's number of it on this host.")
PROCESS_ROLE = Attribute(
    "codesign.process.role",
    "string",
    "`api_server`, `engine_core`, `worker`, or several with `+`.",
)
STATISTIC = Attribute("codesign.statistic", "string", "`mean` or `max` of the last second.")

_GPU = (HW_ID, HW_NAME, HW_TYPE, HW_VENDOR, GPU_INDEX)
_PROCESS = (PROCESS_PID, PROCESS_ROLE)
_THREAD = (*_PROCESS, THREAD_ID, THREAD_NAME)

GPU_UTILIZATION = Series(
    "hw.gpu.utilization",
    "1",
    "Share of the driver's last sampling period in which a kernel ran; every 100 ms.",
    (*_GPU, HW_GPU_TASK),
)
GPU_MEMORY_USAGE = Series(
    "hw.gpu.memory.usage", "By", "Memory in use, by anybody; every 100 ms.", _GPU
)
GPU_MEMORY_LIMIT = Series("hw.gpu.memory.limit", "By", "Memory it has; once a minute.", _GPU)
HW_POWER = Series("hw.power", "W", "Power it draws; every 100 ms.", _GPU)
HW_TEMPERATURE = Series(
    "hw.temperature", "Cel", "Of the die (AMD: its hottest spot); every 100 ms.", _GPU
)
PROCESS_CPU = Series(
    "codesign.process.cpu",
    "1",
    "CPU time of its threads, in cores: 2 are two cores all the time.",
    _PROCESS,
)
PROCESS_RUN_QUEUE_WAIT = Series(
    "codesign.process.run_queue_wait",
    "1",
    "Time in which its threads could have run and had no CPU, summed over the threads.",
    _PROCESS,
)
PROCESS_CONTEXT_SWITCHES = Series(
    "codesign.process.context_switches",
    "{switch}/s",
    "Context switches of its threads.",
    (*_PROCESS, CONTEXT_SWITCH_TYPE),
)
THREAD_CPU = Series(
    "codesign.thread.cpu",
    "1",
    "CPU time as a share of a core. The five busiest threads of a process, and of these those "
    "that ran or waited for over 5 % of the second; they are in the process's sums, too.",
    _THREAD,
)
THREAD_RUN_QUEUE_WAIT = Series(
    "codesign.thread.run_queue_wait",
    "1",
    "Share of time in which it could have run and had no CPU; the same threads.",
    _THREAD,
)
THREAD_CONTEXT_SWITCHES = Series(
    "codesign.thread.context_switches",
    "{switch}/s",
    "Context switches; the same threads.",
    (*_THREAD, CONTEXT_SWITCH_TYPE),
)
EVENT_LOOP_LAG = Series(
    "codesign.event_loop.lag",
    "s",
    "How late the API server's event loop ran a timer of 100 ms; from its first traced request on.",
    (PROCESS_PID, STATISTIC),
)
GIL_CONTENTION = Series(
    "codesign.gil.contention",
    "1",
    "Share of its time that a thread which asks for the GIL every 10 ms waits for it: a third "
    "where one Python thread never lets go; with `CODESIGN_GIL=1` only.",
    (PROCESS_PID,),
)
WORKER_BUSY = Series(
    "codesign.worker.busy", "1", "Share of time inside the worker's calls.", (PROCESS_PID, RANK)
)
WORKER_STEPS = Series(
    "codesign.worker.steps", "{step}", "Steps since the last sample.", (PROCESS_PID, RANK)
)
WORKER_TOKENS = Series(
    "codesign.worker.tokens", "{token}", "Tokens of those steps.", (PROCESS_PID, RANK)
)
EXPORTER_CPU_TIME = Series(
    "codesign.exporter.cpu_time", "s", "CPU time of the exporter since its start.", (PROCESS_PID,)
)

SERIES: tuple[Series, ...] = (
    GPU_UTILIZATION,
    GPU_MEMORY_USAGE,
    GPU_MEMORY_LIMIT,
    HW_POWER,
    HW_TEMPERATURE,
    PROCESS_CPU,
    PROCESS_RUN_QUEUE_WAIT,
    PROCESS_CONTEXT_SWITCHES,
    THREAD_CPU,
    THREAD_RUN_QUEUE_WAIT,
    THREAD_CONTEXT_SWITCHES,
    EVENT_LOOP_LAG,
    GIL_CONTENTION,
    WORKER_BUSY,
    WORKER_STEPS,
    WORKER_TOKENS,
    EXPORTER_CPU_TIME,
)
