"""What the device waits for, what requests wait for, and the machine under both."""

from __future__ import annotations

from collections.abc import Iterable

from dashboards.layout import Dashboard, Row
from dashboards.panels import Panel, Query, right_axis
from dashboards.queries import INSTANCE, Where, mean, most, own, quantile, rate, share, total
from vllm_codesign.semconv import metrics as M
from vllm_codesign.semconv.parts import HOST_PARTS, IdleCause, Part
from vllm_codesign.semconv.series import GPU_INDEX, PROCESS_ROLE, STATISTIC
from vllm_codesign.semconv.spans import OUTCOME, REQUEST_MODEL, Outcome
from vllm_codesign.semconv.types import Attribute

_NOBODYS = f"!~{IdleCause.NO_WORK}|{IdleCause.KV_LOAD}"
_EXPOSED_IDLE: Where = {M.DEVICE_STATE: "idle", M.IDLE_CAUSE: _NOBODYS}
_COMPLETED = rate(own(M.REQUESTS, {OUTCOME: Outcome.COMPLETED.value}))


def _of_host(exposure: str) -> str:
    return f"{total(rate(own(M.HOST_TIME, {M.EXPOSURE: exposure})))} / {total(_COMPLETED)}"


def _any_of(parts: Iterable[Part]) -> str:
    return "=~" + "|".join(sorted(parts))


DEVICE = Row(
    "The device: throughput view",
    (
        Panel(
            "Busy and idle, by cause",
            "Share of the devices' time: `work`, or idle and why. `no_work`: nobody asks.",
            "the widest band besides `work` and `no_work` says whose turn it is. `schedule`, "
            "`update`, `output`: EngineCore's Python (async scheduling hides most of it); "
            "`prepare`, `ipc`: the worker; `frontend`: the tokenizer pool, go to Frontend; "
            "`kv_load`: the connector.",
            (
                Query(
                    share(rate(own(M.DEVICE_TIME)), rate(own(M.DEVICE_TIME)), M.IDLE_CAUSE),
                    "{{codesign_device_cause}}",
                ),
            ),
            unit="percentunit",
            width=24,
            stacked=True,
            share=True,
        ),
        Panel(
            "Idle although there was work",
            "Share of time, with all causes that are the host's; by instance.",
            "without it the same work would take this much less time: at 0.2 throughput could be "
            "1.25 times what it is while the device is otherwise busy.",
            (
                Query(
                    f"{total(rate(own(M.DEVICE_TIME, _EXPOSED_IDLE)), INSTANCE)} / "
                    f"{total(rate(own(M.DEVICE_TIME)), INSTANCE)}",
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            width=24,
            height=6,
            limits=((0.2, "red"),),
        ),
    ),
)

REQUESTS = Row(
    "Requests: latency view",
    (
        Panel(
            "Host time of a request: exposed and hidden",
            "Seconds of host time a completed request. Exposed: it waited for it. Hidden: host "
            "work while its device worked for it.",
            "exposed grows with load: something queues on the host; see the parts below. Much "
            "hidden and little exposed is as it should be.",
            (Query(_of_host("exposed"), "exposed"), Query(_of_host("hidden"), "hidden")),
            unit="s",
            width=24,
            height=6,
        ),
        Panel(
            "Exposed host time, by part",
            "Seconds a completed request, of the parts that are the host's.",
            "`frontend.wait`: tokenizer pool or event loop; `frontend.cpu`: long prompts; "
            "`ipc`: EngineCore's input queue; `queue.host`, `device.gap.*`: EngineCore and worker.",
            (
                Query(
                    total(rate(own(M.PART_TIME, {M.PART: _any_of(HOST_PARTS)})), M.PART)
                    + f" / on() group_left {total(_COMPLETED)}",
                    "{{codesign_part}}",
                ),
            ),
            unit="s",
            width=24,
            stacked=True,
        ),
        Panel(
            "Host share",
            "Of the time that completed requests waited, the share that was exposed host time.",
            "above the line: runbook, CodesignHostShareHigh.",
            (
                Query(
                    f"{total(rate(own(M.HOST_TIME, {M.EXPOSURE: 'exposed'})), REQUEST_MODEL)} / "
                    f"{total(rate(own(M.PART_TIME)), REQUEST_MODEL)}",
                    "{{gen_ai_request_model}}",
                ),
            ),
            unit="percentunit",
            width=24,
            height=6,
            limits=((0.2, "red"),),
        ),
    ),
)

PHASES = Row(
    "Phases",
    (
        Panel(
            "Phases: mean",
            "Mean length of each phase, as its span has it. Some lie within others.",
            "sort the legend by mean: what has grown since it was well is where to look.",
            (Query(mean(M.PHASE_DURATION, M.PHASE), "{{codesign_phase}}"),),
            unit="s",
            width=24,
            height=9,
        ),
        Panel(
            "Phases: p95",
            "95th percentile of each phase's length, as sharp as the buckets are.",
            "far above its mean: single requests wait long; Traces lists them.",
            (Query(quantile(0.95, M.PHASE_DURATION, M.PHASE), "{{codesign_phase}}"),),
            unit="s",
            width=24,
            height=9,
        ),
    ),
)

_OF_ROLE = "{{codesign_process_role}}"
_OF_GPU = "{{instance}} GPU {{codesign_gpu_index}}"


def _telemetry(title: str, metric: M.Metric, shows: str, when_bad: str, unit: str) -> Panel:
    by: tuple[Attribute | str, ...] = (INSTANCE, GPU_INDEX)
    queries = (Query(most(own(metric), *by), _OF_GPU),)
    return Panel(
        title, shows, when_bad, queries, unit=unit, width=24, height=6, share=unit == "percentunit"
    )


TELEMETRY = Row(
    "The machine, on the same time axis",
    (
        Panel(
            "CPU of vLLM's processes",
            "Cores that they use, by role. Where they wait for each other they spin: EngineCore "
            "and workers show a full core each, idle or not.",
            "the API server at 1: one event loop is full; `--api-server-count` adds more.",
            (Query(total(own(M.PROCESS_CORES), PROCESS_ROLE), _OF_ROLE),),
            unit="cores",
            width=24,
            height=6,
        ),
        Panel(
            "Waiting for a CPU",
            "Threads of vLLM's processes that could have run and had no CPU, in cores, by role.",
            "above a tenth of a core the machine has too few cores or the container too small a "
            "share: host time here is then the kernel's scheduling, not vLLM's.",
            (Query(total(own(M.PROCESS_WAIT), PROCESS_ROLE), _OF_ROLE),),
            unit="cores",
            width=24,
            height=6,
        ),
        Panel(
            "Event loop's lag",
            "How late the API servers' event loops ran a timer: the worst of each second.",
            "see Frontend: something long runs on the loop.",
            (Query(most(own(M.LOOP_LAG), STATISTIC), "{{codesign_statistic}}"),),
            unit="s",
            width=24,
            height=6,
        ),
        _telemetry(
            "GPU utilization",
            M.HARDWARE[0],
            "Share of the driver's sampling period in which any kernel ran.",
            "high while *Busy* above is low: somebody else uses this GPU; low while it is high: "
            "steps are made of small kernels.",
            "percentunit",
        ),
        Panel(
            "GPU memory",
            "Memory in use, by anybody, and what there is.",
            "vLLM takes its share when it starts; growth afterwards is somebody else's, or will "
            "end in an error for lack of memory.",
            (
                Query(most(own(M.HARDWARE[1]), INSTANCE, GPU_INDEX), f"{_OF_GPU} used"),
                Query(most(own(M.HARDWARE[2]), INSTANCE, GPU_INDEX), f"{_OF_GPU} limit"),
            ),
            unit="bytes",
            width=24,
            height=6,
        ),
        _telemetry(
            "GPU power",
            M.HARDWARE[3],
            "Power that it draws.",
            "flat at its cap: clocks are lowered and steps get longer. Low under load: the host "
            "does not keep it busy.",
            "watt",
        ),
        _telemetry(
            "GPU temperature",
            M.HARDWARE[4],
            "Of the die (AMD: its hottest spot).",
            "near its limit clocks are lowered: cooling, or a lower power cap.",
            "celsius",
        ),
        Panel(
            "Steps, and what runs",
            "Mean length of an engine step, and requests that run.",
            "steps grow with the requests in them; when they grow without, look at the causes "
            "above at that time.",
            (
                Query(mean(M.STEP_DURATION), "step"),
                Query(total(own(M.ENGINE_REQUESTS, {M.REQUEST_STATE: "running"})), "running"),
            ),
            unit="s",
            width=24,
            height=6,
            overrides=(right_axis("running", "short"),),
        ),
    ),
)

HOST_DEVICE = Dashboard(
    "host-device",
    "Host and device",
    "Busy and idle by cause, host time hidden and exposed, phases, and the machine: one time axis.",
    (DEVICE, REQUESTS, PHASES, TELEMETRY),
)
