"""How cases are timed: in rounds, in random order, on one core, with the collector off.

A round does every case once, in an order of its own, so that a slow minute of the machine meets
all cases alike, and each case comes after others and finds the caches of the processor as they
left them: what a server's call finds, too. The first round warms up and counts nowhere.

Wall time is what a caller waits for, but on a machine that also does other work it holds their
turns on the core, and the longer a call the more of them, so that everything seems to grow faster
than it does. The calls neither wait nor sleep: their CPU time is their wall time on an idle core,
and the two together say how much of the core the others had.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from vllm_codesign.analysis import bootstrap
from vllm_codesign.micro.case import Case
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.micro import Skipped, Timing

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run of the harness found."""

    timings: list[Timing]
    skipped: list[Skipped]
    others: float | None
    """Part of the timed wall time in which this process did not run; None: nothing was timed."""


@contextmanager
def one_core() -> Iterator[str]:
    """Keeps this thread on one core, the last of those it may use, and says so.

    The first core is where most machines handle their interrupts.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield "no: this system cannot"
        return
    before = os.sched_getaffinity(0)
    core = max(before)
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        yield f"no: {error.strerror}"
        return
    try:
        yield f"core {core}"
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def no_collector() -> Iterator[None]:
    """Keeps Python's garbage collector from running in here.

    What was there before is put aside, so that a collection between two rounds is quick.
    """
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def measure(
    cases: Sequence[Case],
    rounds: int,
    deadline: float,
    renew: Callable[[int], None] = lambda number: None,
    progress: Callable[[str], None] = lambda line: None,
    seed: int = 0,
    clock: Clock = "wall",
) -> Measured:
    """Times every case once a round, for `rounds` rounds or until `deadline` (`time.monotonic`).

    `renew` gets the number of a round before it begins. A case that the deadline left without a
    figure is skipped and says so; so is one whose call raised or did not do its work, with all that
    was timed of it.
    """
    order = random.Random(seed)
    samples: list[list[float]] = [[] for _ in cases]
    total = {"wall": 0, "cpu": 0}
    unfit: dict[int, str] = {}
    with no_collector():
        for number in range(rounds + 1):
            if not _in_time(deadline):
                break
            progress(f"components: round {number} of {rounds}" if number else "warming up")
            renew(number)
            gc.collect()
            for index in order.sample(range(len(cases)), len(cases)):
                if not _in_time(deadline):
                    break
                if index in unfit:
                    continue
                try:
                    units, spent = _once(cases[index])
                except Exception as error:  # noqa: BLE001 -- what libraries raise is not ours to know
                    unfit[index] = _told(error)
                    continue
                if number:
                    samples[index].append(spent[clock] / units)
                    for which in spent:
                        total[which] += spent[which]
    timings, skipped = [], []
    for index, (case, taken) in enumerate(zip(cases, samples, strict=True)):
        if taken and index not in unfit:
            timings.append(_timing(case, taken))
        else:
            reason = unfit.get(index, "no time was left for it: more --seconds")
            skipped.append(Skipped(component=str(case), reason=reason))
    others = max(0.0, 1 - total["cpu"] / total["wall"]) if total["wall"] else None
    return Measured(timings, skipped, others)


def _told(error: Exception) -> str:
    """In one line: our own words as they are, those of a library with what it raised."""
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, CodesignError) else f"{type(error).__name__}: {first}"


def _in_time(deadline: float) -> bool:
    return time.monotonic() < deadline


def _once(case: Case) -> tuple[int, dict[Clock, int]]:
    """How often it did what the case is named for, and the nanoseconds in all by each clock.

    CPU time is the process's: `tokenizers` works in threads of its own.
    """
    ready = case.prepare()
    ran, begun = time.process_time_ns(), time.perf_counter_ns()
    result = ready.call()
    spent, run = time.perf_counter_ns() - begun, time.process_time_ns() - ran
    if (wrong := ready.check(result)) is not None:
        raise CodesignError(f"{wrong}: nothing of it is reported")
    return ready.units, {"wall": spent, "cpu": run}


def _timing(case: Case, samples: list[float]) -> Timing:
    median, low, high = bootstrap.of_one(samples)
    return Timing(
        component=case.component,
        group=case.group,
        variant=case.variant,
        tokens=case.tokens,
        samples_ns=samples,
        median_ns=median,
        low_ns=low,
        high_ns=high,
        note=case.note,
    )
