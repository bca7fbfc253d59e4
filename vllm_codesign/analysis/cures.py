"""What would change a cause of waiting, and at most how much: the one table of it.

`analyze`, the report and `docs/report.md` print these rows. A flag named here is one of vLLM's,
and what it can remove is bounded by the time under its cause, never promised. What the server has
already is not named: a row goes beyond it, or says what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllm_codesign.analysis.cure_texts import ONE_CPU, filled, workers
from vllm_codesign.analysis.server_settings import ServerSettings
from vllm_codesign.semconv import IdleCause, Part

POOL = "frontend.wait: pool"
"""Of `frontend.wait`, what is spent queued for a thread of the renderer pool."""
LOOP = "frontend.wait: other"
_OLD = (0, 19)


def _never(_: ServerSettings) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Way:
    """One thing to change: `text` may name what `filled` knows, `done` says that the server has
    it already."""

    text: str
    done: Callable[[ServerSettings], bool] = _never


@dataclass(frozen=True, slots=True)
class Cure:
    """One cause of avoidable time, and the ways to change it."""

    cause: str
    """A `Part`, or one half of `frontend.wait`."""
    label: str
    part: Part
    idle: IdleCause | None
    """The same cause in the throughput view, where it has one."""
    ways: tuple[Way, ...]
    at_most: str
    then: str = ""
    """What is left where the server has all of them."""
    old_change: str = ""
    """For vLLM 0.19, where it differs."""
    idle_label: str = ""
    """In the throughput view, where the label would say too much."""


def _plans_ahead(server: ServerSettings) -> bool:
    if server.plans_ahead is None:
        # Asked for by name, it is an error where vLLM cannot.
        return not server.on_cpu and server.on("--async-scheduling") is True
    return server.plans_ahead


def _not_eager(server: ServerSettings) -> bool:
    return server.unset("--enforce-eager") or server.on("--enforce-eager") is False


def _in_one_process(server: ServerSettings) -> bool:
    """vLLM's default for one device, and not to be had on its CPU backend."""
    backend = "--distributed-executor-backend"
    return server.on_cpu or server.unset(backend) or server.flags.get(backend) == "uni"


_AHEAD = Way("{ahead}", _plans_ahead)

CURES = (
    Cure(
        POOL,
        "tokenizer pool wait",
        Part.FRONTEND_WAIT,
        IdleCause.FRONTEND,
        (Way("`--renderer-num-workers {workers}`"),),
        "the wait, not the tokenizing; nothing where the API server has one CPU",
        then="{beyond_pool}",
        old_change="{servers} (0.19 tokenizes in one serial loop per API server)",
        idle_label="all work still in the API server",
    ),
    Cure(
        LOOP,
        "waiting in the API server",
        Part.FRONTEND_WAIT,
        None,
        (Way("{servers}, or {interval} against work per token in the event loop"),),
        "the wait for the event loop; not that for a slow client's own body",
    ),
    Cure(
        Part.FRONTEND_CPU.value,
        "work in the API server",
        Part.FRONTEND_CPU,
        None,
        (Way("shorter prompts, or a faster core for the API server"),),
        "what tokenizing and the template take; more workers do not make one prompt faster",
    ),
    Cure(
        Part.IPC.value,
        "the way to EngineCore and back",
        Part.IPC,
        IdleCause.IPC,
        (
            Way("cores of their own for EngineCore and the API servers"),
            Way(
                "fewer tokens a step ({fewer_tokens}), since new requests wait for the step under "
                "way"
            ),
        ),
        "the way; a request can still arrive in the middle of a step",
    ),
    Cure(
        Part.QUEUE_HOST.value,
        "queued while the device idles",
        Part.QUEUE_HOST,
        None,
        (_AHEAD,),
        "all of it, where the next step can be planned ahead",
        then="a faster core for EngineCore (steps are planned ahead already)",
    ),
    Cure(
        Part.GAP_PREPARE.value,
        "preparing batches on the worker",
        Part.GAP_PREPARE,
        IdleCause.PREPARE,
        (_AHEAD, Way("no `--enforce-eager`", _not_eager)),
        "what can be prepared while the device works on the step before",
        then="a faster core for the workers (steps are planned ahead already)",
    ),
    Cure(
        Part.GAP_SCHEDULE.value,
        "planning steps in EngineCore",
        Part.GAP_SCHEDULE,
        IdleCause.SCHEDULE,
        (_AHEAD, Way("fewer requests at a time ({fewer_requests})")),
        "what can be planned while the device works on the step before",
    ),
    Cure(
        Part.GAP_UPDATE.value,
        "taking results back in EngineCore",
        Part.GAP_UPDATE,
        IdleCause.UPDATE,
        (_AHEAD, Way("no logprobs and fewer stop conditions where they are not needed")),
        "what can be done while the device works on the next step",
    ),
    Cure(
        Part.GAP_IPC.value,
        "messages between EngineCore and its workers",
        Part.GAP_IPC,
        IdleCause.IPC,
        (
            _AHEAD,
            Way("cores of their own for EngineCore and each worker"),
            Way("`--distributed-executor-backend uni` for one device", _in_one_process),
        ),
        "the messages and the wake-ups",
    ),
    Cure(
        Part.GAP_OUTPUT.value,
        "handing out tokens in EngineCore",
        Part.GAP_OUTPUT,
        IdleCause.OUTPUT,
        (_AHEAD, Way("a core of its own for EngineCore")),
        "what can be handed out while the device works on the next step",
    ),
    Cure(
        Part.GAP_OTHER.value,
        "idle for no known cause",
        Part.GAP_OTHER,
        IdleCause.OTHER,
        (Way("nothing that this capture knows: `codesign doctor` names hooks that are missing"),),
        "not known",
    ),
    Cure(
        Part.QUEUE_CAPACITY.value,
        "waiting for a busy or full device",
        Part.QUEUE_CAPACITY,
        None,
        (Way("more devices{limit}"),),
        "all of it",
    ),
    Cure(
        Part.KV_LOAD.value,
        "loading KV from another tier",
        Part.KV_LOAD,
        IdleCause.KV_LOAD,
        (
            Way(
                "a faster tier, or no load for prompts that are computed sooner "
                "(`--kv-transfer-config`)"
            ),
        ),
        "the load; its tokens then have to be computed",
    ),
)
"""In the order of a request's way. `Part.ENGINE_QUEUE` has none: below level `step` nothing says
what the queue waited for."""

BY_IDLE = {cure.idle: cure for cure in CURES if cure.idle is not None and cure.cause != Part.IPC}


def change(
    cure: Cure,
    clients: int | None,
    server: ServerSettings,
    queued: Mapping[str, float] | None = None,
) -> str:
    """What would change it on this server, as far as the capture tells. `queued`: time by
    `QueueReason`."""
    texts = filled(server, clients, queued or {})
    if cure.old_change and server.version == _OLD:
        return cure.old_change.format(**texts)
    if cure.cause == POOL:
        return _of_pool(cure, server, clients).format(**texts)
    left = [way.text for way in cure.ways if not way.done(server)]
    return ("; ".join(left) or cure.then).format(**texts)


def _of_pool(cure: Cure, server: ServerSettings, clients: int | None) -> str:
    threads = server.threads or 1
    if server.cpus == 1 and threads == 1:
        return ONE_CPU
    # How many it should have depends on the clients, too.
    return cure.then if threads >= workers(clients, server) else cure.ways[0].text
