"""How cases are timed: in rounds, in random order, on one core, with the collector off.

A round does every case once, in an order of its own, so that a slow minute of the machine meets
all cases alike, and each case comes after others and finds the caches of the processor as they
left them: what a server's call finds, too. The first round warms up and counts nowhere.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from vllm_codesign.analysis import bootstrap
from vllm_codesign.micro.case import Case
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.micro import Skipped, Timing


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
) -> tuple[list[Timing], list[Skipped]]:
    """Times every case once a round, for `rounds` rounds or until `deadline` (`time.monotonic`).

    `renew` gets the number of a round before it begins. A case that the deadline left without a
    figure is skipped and says so. Raises CodesignError where a call did not do its work.
    """
    order = random.Random(seed)
    samples: list[list[float]] = [[] for _ in cases]
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
                spent = _once(cases[index])
                if number:
                    samples[index].append(spent)
    pairs = list(zip(cases, samples, strict=True))
    timings = [_timing(case, taken) for case, taken in pairs if taken]
    skipped = [
        Skipped(component=str(case), reason="no time was left for it: more --seconds")
        for case, taken in pairs
        if not taken
    ]
    return timings, skipped


def _in_time(deadline: float) -> bool:
    return time.monotonic() < deadline


def _once(case: Case) -> float:
    """Nanoseconds of what the case is named for."""
    ready = case.prepare()
    begun = time.perf_counter_ns()
    result = ready.call()
    spent = time.perf_counter_ns() - begun
    if (wrong := ready.check(result)) is not None:
        raise CodesignError(f"{case}: {wrong}; nothing of it is reported")
    return spent / ready.units


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
