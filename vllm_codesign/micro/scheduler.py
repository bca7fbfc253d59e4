"""What vLLM's scheduler costs, by how many requests it holds and how long they are.

A case is one number of requests of one length. In each of its rounds a real scheduler
(`scheduler_built.py`) admits all prompts with nothing cached ("prefill cold"), decodes a block's
worth of tokens of each ("decode", the mean of those steps), lets the requests go and admits the
same prompts again, now cached ("prefill warm"). A prefill is one step: the token budget is as
large as the case, so that its time is all that admission costs the scheduler, whatever the
chunks. The cases in `Grid.chunked` are admitted within a server's budget instead, and all steps
until the last prompt is computed are summed ("prefill chunked").

`schedule` and `update_from_output` are timed bare. `allocate_slots` and `get_computed_blocks` are
timed from inside `schedule`, in steps of their own, as a sum over the calls of one step: a clock
around each of a thousand calls would be in the time of `schedule`, as it is in theirs. After every
step what happened is held against what was planned; a difference is an error and no timing.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vllm_codesign.analysis import bootstrap
from vllm_codesign.micro.harness import Clock
from vllm_codesign.micro.scheduler_built import Built, Step
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.micro import Timing

MOST_TOKENS = 40_000_000
"""Of all prompts of a case, for memory and time: 1,024 x 100,000 would be 6.4 million blocks."""
LARGE_TOKENS = 3_000_000
LARGE_ROUNDS = 5
"""Of cases above `LARGE_TOKENS`, at most: a round of 25.6 million tokens takes half a minute."""

CLOCKS: dict[Clock, Callable[[], int]] = {
    "wall": time.perf_counter_ns,
    "cpu": time.thread_time_ns,
}
"""In nanoseconds. CPU time is that of the thread that schedules: no turn of others is in it."""

_Samples = defaultdict[tuple[str, str], list[float]]


@dataclass(frozen=True, slots=True)
class Grid:
    """What is timed."""

    requests: tuple[int, ...]
    tokens: tuple[int, ...]
    """Of each request's prompt."""
    chunked: tuple[tuple[int, int], ...] = ()
    """Requests and tokens of the cases whose prompts are also admitted in chunks."""
    budget: int = 8_192
    """Tokens of a step then: `max_num_batched_tokens` of a server on a large GPU."""
    block_size: int = 16
    most_tokens: int = MOST_TOKENS
    """Cases with more in all are left out."""

    @classmethod
    def full(cls) -> Grid:
        """1 to 1,024 requests, 1k to 100k tokens; the study's 32 x 100k in chunks as well."""
        return cls(
            requests=(1, 4, 16, 32, 64, 256, 1_024),
            tokens=(1_000, 8_000, 32_000, 100_000),
            chunked=((32, 100_000),),
        )

    @classmethod
    def quick(cls) -> Grid:
        """Does it run?"""
        return cls(
            requests=(1, 4, 16), tokens=(256, 1_000, 4_000), chunked=((4, 1_000),), budget=512
        )

    def cases(self) -> list[tuple[int, int]]:
        """Requests and tokens, the smallest first."""
        every = [(requests, tokens) for requests in self.requests for tokens in self.tokens]
        return sorted(
            (case for case in every if case[0] * case[1] <= self.most_tokens),
            key=lambda case: (case[0] * case[1], case[0]),
        )

    def left_out(self) -> list[tuple[int, int]]:
        """Cases with too many tokens."""
        kept = set(self.cases())
        return [(r, t) for r in self.requests for t in self.tokens if (r, t) not in kept]


def run(
    grid: Grid,
    rounds: int,
    deadline: float,
    progress: Callable[[str], None],
    clock: Clock = "wall",
) -> Iterator[Timing]:
    """Every case of the grid, `rounds` rounds after one that warms up, by one of `CLOCKS`.

    `deadline` is a `time.monotonic()` after which no round is begun; a case that had none is left
    out, and `progress` is told of everything that is. CodesignError where vLLM is missing or
    its scheduler cannot be built, or does something else than was planned.
    """
    for requests, tokens in grid.left_out():
        progress(
            f"{_named(requests, tokens)}: left out, more than {grid.most_tokens:,} tokens in all"
        )
    cases = grid.cases()
    for place, (requests, tokens) in enumerate(cases):
        if time.monotonic() >= deadline:
            left = ", ".join(_named(*case) for case in cases[place:])
            progress(f"no time left, not timed: {left}")
            return
        progress(_named(requests, tokens))
        most = min(rounds, LARGE_ROUNDS) if requests * tokens > LARGE_TOKENS else rounds
        timed = _case(grid, requests, tokens, most, deadline, CLOCKS[clock])
        yield from _told(timed, requests, tokens)
        if (requests, tokens) in grid.chunked:
            if time.monotonic() >= deadline:
                progress(f"no time left, not timed: {_named(requests, tokens)} in chunks")
                continue
            progress(f"{_named(requests, tokens)} in chunks of {grid.budget:,} tokens")
            timed = _chunked(grid, requests, tokens, most, deadline, CLOCKS[clock])
            yield from _told(timed, requests, tokens)


def _told(timings: Iterator[Timing], requests: int, tokens: int) -> Iterator[Timing]:
    """Whatever a vLLM raises that is driven in a way it does not know, in one line."""
    try:
        yield from timings
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        cause = " ".join(str(e).split())[:300]
        raise CodesignError(
            f"the scheduler failed at {_named(requests, tokens)} ({type(e).__name__}: {cause}): "
            "use a vLLM that `codesign doctor` knows, or leave the scheduler out"
        ) from e


def _case(
    grid: Grid, requests: int, tokens: int, rounds: int, deadline: float, now: Callable[[], int]
) -> Iterator[Timing]:
    samples: _Samples = defaultdict(list)
    with _undisturbed():
        built = Built(requests, tokens, grid.block_size, requests * tokens, now=now)
        for number in range(rounds + 1):
            if number > 1 and time.monotonic() >= deadline:
                break
            found: _Samples = defaultdict(list)
            for variant, cached in (("cold", 0), ("warm", hit(tokens, grid.block_size))):
                built.add()
                step = built.step()
                _hold(built, step, tokens - cached, f"prefill {variant}")
                found["schedule", f"prefill {variant}"].append(step.schedule_ns)
                found["update_from_output", f"prefill {variant}"].append(step.update_ns)
                if not cached:
                    _decode(built, found)
                built.finish()
            built.forget()
            for variant, cached in (("cold", 0), ("warm", hit(tokens, grid.block_size))):
                built.add()
                with (
                    built.inside("allocate_slots") as slots,
                    built.inside("get_computed_blocks") as lookup,
                ):
                    step = built.step()
                _hold(built, step, tokens - cached, f"prefill {variant}")
                _called(requests, (slots.calls, lookup.calls))
                found["allocate_slots", f"prefill {variant}"].append(slots.ns)
                found["get_computed_blocks", f"prefill {variant}"].append(lookup.ns)
                built.finish()
            built.forget()
            if number:
                for key, values in found.items():
                    samples[key] += values
    for (component, variant), values in samples.items():
        yield _timing(component, variant, requests, tokens, values, _NOTES[component])


def _decode(built: Built, found: _Samples) -> None:
    """Every request grows by a block in each half, bare and from inside: every phase of a block."""
    _hold(built, built.step(), 1, "decode")
    blocks, steps = built.free_blocks, built.block_size
    schedule = update = inside = 0
    for _ in range(steps):
        step = built.step()
        _hold(built, step, 1, "decode")
        schedule += step.schedule_ns
        update += step.update_ns
    if blocks - built.free_blocks != built.requests:
        raise _Otherwise(f"{blocks - built.free_blocks} new blocks, not {built.requests}")
    for _ in range(steps):
        with built.inside("allocate_slots") as slots, built.inside("get_computed_blocks") as lookup:
            step = built.step()
        _hold(built, step, 1, "decode")
        _called(built.requests, (slots.calls,))
        if lookup.calls:
            raise _Otherwise(f"{lookup.calls} lookups while decoding")
        inside += slots.ns
    found["schedule", "decode"].append(schedule / steps)
    found["update_from_output", "decode"].append(update / steps)
    found["allocate_slots", "decode"].append(inside / steps)


def _chunked(
    grid: Grid, requests: int, tokens: int, rounds: int, deadline: float, now: Callable[[], int]
) -> Iterator[Timing]:
    schedule: list[float] = []
    update: list[float] = []
    steps = 0
    with _undisturbed():
        # A prompt that is computed decodes in every step until the last one is.
        most_steps = 2 * -(-requests * tokens // grid.budget) + requests
        built = Built(requests, tokens, grid.block_size, grid.budget, most_steps, now)
        for number in range(rounds + 1):
            if number > 1 and time.monotonic() >= deadline:
                break
            built.add()
            total = [0, 0]
            steps = answered = scheduled = 0
            while answered < requests:
                step = built.step()
                total[0] += step.schedule_ns
                total[1] += step.update_ns
                steps += 1
                answered = step.answered
                if steps > most_steps:
                    raise _Otherwise(f"{answered} of {requests} have a token after {steps} steps")
                scheduled += sum(step.scheduled.values())
            # A prompt that is computed decodes beside the others: at most a token in each step.
            if not requests * tokens <= scheduled <= requests * (tokens + steps):
                raise _Otherwise(f"{scheduled:,} tokens were scheduled in chunks")
            built.finish()
            built.forget()
            if number:
                schedule.append(total[0])
                update.append(total[1])
    for component, values in (("schedule", schedule), ("update_from_output", update)):
        note = f"sum of {steps} steps of at most {grid.budget:,} tokens, to the last prompt's end"
        yield _timing(component, "prefill chunked", requests, tokens, values, note)


def hit(tokens: int, block_size: int) -> int:
    """Tokens of a prompt that a cache with all of it saves: the last one is always computed."""
    return (tokens - 1) // block_size * block_size


_NOTES = {
    "schedule": "one call; prefill admits all requests in it",
    "update_from_output": "one call, a sampled token for each request",
    "allocate_slots": "all calls of one step, one a request",
    "get_computed_blocks": "all calls of one step, one a request",
}


def _timing(
    component: str, variant: str, requests: int, tokens: int, values: list[float], note: str
) -> Timing:
    median, low, high = bootstrap.of_one(values)
    return Timing(
        component=component,
        group="scheduler",
        variant=variant,
        tokens=tokens,
        requests=requests,
        samples_ns=values,
        median_ns=median,
        low_ns=low,
        high_ns=high,
        note=note,
    )


class _Otherwise(CodesignError):
    """What was timed is not what was planned."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the scheduler did not do what was to be timed: {what}: this vLLM schedules "
            "otherwise, leave the scheduler out"
        )


def _hold(built: Built, step: Step, each: int, what: str) -> None:
    running = len(built.scheduler.running)
    found = set(step.scheduled.values())
    if (
        len(step.scheduled) != built.requests
        or found != {each}
        or step.answered != built.requests
        or running != built.requests
    ):
        raise _Otherwise(
            f"{what} of {_named(built.requests, built.tokens)}: {len(step.scheduled)} requests "
            f"were scheduled with {sorted(found)} tokens, not {each}; {running} run, "
            f"{step.answered} got a token"
        )


def _called(requests: int, calls: tuple[int, ...]) -> None:
    if any(count != requests for count in calls):
        raise _Otherwise(f"{calls} calls of the cache manager, not {requests} of each")


def _named(requests: int, tokens: int) -> str:
    return f"{requests:,} x {tokens:,} tokens"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without garbage collection, as a server whose long-lived objects are frozen."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
