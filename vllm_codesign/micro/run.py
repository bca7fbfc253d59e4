"""A whole run of `codesign micro`: components, scheduler, and how each grows."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from vllm_codesign import __version__
from vllm_codesign.analysis.micro import by_reason
from vllm_codesign.hooks.installer import vllm_version
from vllm_codesign.micro import machine
from vllm_codesign.micro.components import COMPONENTS, Kit, chosen
from vllm_codesign.micro.growth import growths
from vllm_codesign.micro.harness import Clock, measure, one_core
from vllm_codesign.micro.scheduler import Grid
from vllm_codesign.micro.scheduler import run as time_scheduler
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.micro import MicroRun, Skipped, Timing

SCHEDULER = "scheduler"
NAMES = (*COMPONENTS, SCHEDULER)
"""Everything that can be chosen."""
_OF_THE_COMPONENTS = 0.4
"""Part of the time that they get where the scheduler is timed, too."""

_QUIET = 0.05
"""Part of the core that others may have before it is a warning."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to time. `model` is asked for the tokenizer's folder or name when one is needed."""

    names: tuple[str, ...]
    model: Callable[[], str]
    sizes: tuple[int, ...]
    rounds: int
    seconds: float
    grid: Grid
    clock: Clock = "wall"


def execute(plan: Plan, progress: Callable[[str], None]) -> MicroRun:
    """Time all of it within `plan.seconds`, which begin when vLLM, the tokenizer and the prompts
    are there: how long those take depends on the disk.

    Raises CodesignError where a component did not do its work, and where nothing could be timed.
    """
    environment = machine.describe()
    started = time.time_ns()
    components = [name for name in plan.names if name != SCHEDULER]
    with_scheduler = SCHEDULER in plan.names
    share = _OF_THE_COMPONENTS if with_scheduler and components else 1.0
    kit = Kit(plan.model, plan.sizes)
    progress("loading vLLM and the tokenizer")
    with one_core() as core:
        cases, skipped = chosen(components, kit)
        if with_scheduler:
            _load_scheduler()
        begun = time.monotonic()
        measured = measure(
            cases,
            plan.rounds,
            begun + share * plan.seconds,
            kit.prompts.renew if kit.loaded is not None else lambda number: None,
            progress,
            clock=plan.clock,
        )
        timings = measured.timings
        skipped += measured.skipped
        if with_scheduler:
            found, missing = _scheduler(plan, begun + plan.seconds, progress)
            timings += found
            skipped += missing
    if not timings:
        reasons = "; ".join(f"{what}: {why}" for what, why in by_reason(skipped))
        raise CodesignError(f"nothing could be timed ({reasons})")
    environment |= {
        "pinned": core,
        "clock": plan.clock,
        "others": _others(measured.others, plan.clock),
        "tokenizer": kit.tokenizer.described if kit.loaded is not None else "none was needed",
        "model": kit.tokenizer.model if kit.loaded is not None else "none",
        "rounds": str(max(len(timing.samples_ns) for timing in timings)),
        "seconds": f"{time.monotonic() - begun:.0f} of {plan.seconds:.0f}",
    }
    return MicroRun(
        tool_version=__version__,
        started_unix_ns=started,
        environment=environment,
        timings=timings,
        growths=growths(timings),
        skipped=skipped,
    )


def _others(part: float | None, clock: Clock) -> str:
    """How much of the core other processes had while components were timed."""
    if part is None:
        return "unknown"
    said = f"had {100 * part:.0f} % of the core"
    if part < _QUIET or clock == "cpu":
        return said
    return f"{said} (wall times hold their turns: --clock cpu, or a quiet machine)"


def _load_scheduler() -> None:
    """Imported now, it takes none of the time; where it cannot be, `_scheduler` says why."""
    with contextlib.suppress(ImportError):
        importlib.import_module("vllm.v1.core.sched.scheduler")


def _scheduler(
    plan: Plan, deadline: float, progress: Callable[[str], None]
) -> tuple[list[Timing], list[Skipped]]:
    """Its timings, and what of the grid has none."""
    if not vllm_version():
        return [], [Skipped(component=SCHEDULER, reason="vllm is not installed")]
    found: list[Timing] = []
    broken: list[Skipped] = []
    try:
        for timing in time_scheduler(plan.grid, plan.rounds, deadline, progress, plan.clock):
            found.append(timing)  # one by one: what was timed before an error is kept
    except MemoryError:
        broken.append(Skipped(component=SCHEDULER, reason="no memory was left for its next case"))
    except (CodesignError, ImportError) as error:
        broken.append(Skipped(component=SCHEDULER, reason=str(error)))
    if not found and broken:
        return [], broken
    left_out = [
        _missing(case, f"more than {plan.grid.most_tokens:,} tokens in all")
        for case in plan.grid.left_out()
    ]
    timed = {(timing.requests, timing.tokens) for timing in found}
    why = "an earlier case failed" if broken else "no time was left for it: more --seconds"
    late = [_missing(case, why) for case in plan.grid.cases() if case not in timed]
    return found, broken + left_out + late


def _missing(case: tuple[int, int], reason: str) -> Skipped:
    requests, tokens = case
    return Skipped(component=f"{SCHEDULER}, {requests:,} x {tokens:,} tokens", reason=reason)
