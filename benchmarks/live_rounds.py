"""Figure (c): one server, its level switched between short slots of the same load.

A round is `off T off T off T` with T the three treatments `off again`, `request` and `step`
in an order drawn anew; each of the six orders comes equally often. Every treatment stands
between two reference slots, and its figures are taken over their mean. `off again` does
nothing but stand there: how far its ratios are from one is what this method cannot see.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.intervals import Interval, median_interval, neighbour_ratios
from benchmarks.load import LoadProcess, LoadResult
from benchmarks.served import ROLES, Traced, used

REFERENCE = "off"
TREATMENTS = ("off again", "request", "step")
SETTLE_S = 0.3
"""After a traced slot: the exporter polls each 50 ms, and its work on it is not the next one's."""

MEASURES = ("cpu_ms", "requests_per_s", "itl_ms")


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of load. CPU times are milliseconds per request, by role."""

    label: str
    requests: int
    wall_s: float
    itl_ms: float
    ttft_ms: float
    cpu_ms: dict[str, float]
    exporter_cores: float
    """Of one core, from the slot's beginning to the next one's."""
    exited_threads: int
    """Threads of the API server that ended within the slot: their time is missing."""
    stall_ms: float = 0.0
    """Longest time in which no client got any token."""

    def measure(self, name: str) -> float:
        if name == "cpu_ms":
            return self.cpu_ms["api_server"]
        if name == "requests_per_s":
            return self.requests / self.wall_s
        return self.itl_ms


def order(rounds: int, seed: int = 0) -> list[str]:
    """Labels of all slots, beginning and ending with a reference."""
    source = random.Random(seed)
    labels = [REFERENCE]
    for treatments in itertools.islice(_balanced(source), rounds):
        for treatment in treatments:
            labels += [treatment, REFERENCE]
    return labels


def _balanced(source: random.Random) -> Iterator[tuple[str, ...]]:
    while True:
        orders = list(itertools.permutations(TREATMENTS))
        source.shuffle(orders)
        yield from orders


def measure_slot(
    server: Traced, load: LoadProcess, url: str, requests: int, label: str, tag: str
) -> Slot:
    """Set the level, send the load, and wait until the exporter is done with what it left."""
    server.set_level("off" if label.startswith("off") else label)
    before, begun = server.cpu(), time.monotonic()
    result: LoadResult = load.run(url, requests, tag)
    after = server.cpu()
    if not label.startswith("off"):
        time.sleep(SETTLE_S)
    lasted, settled = time.monotonic() - begun, server.cpu()
    spent = used(before, after)
    exporter = used(before, settled)["exporter"].ns
    return Slot(
        label,
        requests,
        result.wall_s,
        result.itl_ms,
        result.ttft_ms,
        {role: spent[role].ns / 1e6 / requests for role in ROLES}
        | {"exporter": exporter / 1e6 / requests},
        exporter / 1e9 / lasted,
        spent["api_server"].exited,
        result.stall_ms,
    )


def run_rounds(
    server: Traced,
    load: LoadProcess,
    url: str,
    rounds: int,
    requests: int,
    progress: Callable[[str], None],
) -> list[Slot]:
    """All slots, in order; the server is left at `request`."""
    labels = order(rounds)
    slots = []
    for number, label in enumerate(labels):
        slots.append(measure_slot(server, load, url, requests, label, f"slot{number}"))
        if number % 20 == 0:
            progress(f"slot {number + 1} of {len(labels)}")
    server.set_level("request")
    return slots


def ratios(slots: list[Slot], measure: str) -> dict[str, Interval]:
    """By treatment: the median ratio to the neighbouring reference slots, with its interval."""
    by_treatment = neighbour_ratios(
        [slot.label for slot in slots], [slot.measure(measure) for slot in slots], REFERENCE
    )
    return {label: median_interval(values) for label, values in by_treatment.items()}
