from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks import table
from benchmarks.intervals import Interval
from benchmarks.live_rounds import REFERENCE, TREATMENTS, Slot, order, ratios


def _slot(label: str, cpu_ms: float, wall_s: float = 2.0, itl_ms: float = 10.0) -> Slot:
    return Slot(label, 48, wall_s, itl_ms, 50.0, {"api_server": cpu_ms}, 0.0, 0)


def test_every_treatment_stands_between_references():
    labels = order(12)
    assert labels[0] == labels[-1] == REFERENCE
    assert all((a == REFERENCE) != (b == REFERENCE) for a, b in pairwise(labels))
    assert Counter(labels) == {REFERENCE: 37, **dict.fromkeys(TREATMENTS, 12)}


def test_orders_within_a_round_are_balanced():
    labels = [label for label in order(12) if label != REFERENCE]
    rounds = Counter(tuple(labels[i : i + 3]) for i in range(0, len(labels), 3))
    assert len(rounds) == 6
    assert set(rounds.values()) == {2}
    assert order(12) == order(12)


def test_ratios_by_measure():
    slots = []
    for label in order(6):
        factor = {"request": 1.1, "step": 1.2}.get(label, 1.0)
        slots.append(_slot(label, 5.0 * factor, 2.0 * factor, 10.0))
    cpu = ratios(slots, "cpu_ms")
    assert cpu["off again"].median == pytest.approx(1.0)
    assert cpu["request"].median == pytest.approx(1.1)
    assert cpu["step"].n == 6
    assert ratios(slots, "requests_per_s")["step"].median == pytest.approx(1 / 1.2)
    assert ratios(slots, "itl_ms")["request"].median == pytest.approx(1.0)


def test_slots_that_stood_still_are_counted():
    slots = [replace(_slot(label, 5.0), stall_ms=1000.0 * (label == "step")) for label in order(6)]
    values = {row.figure: row.value for row in table.stall_rows(slots)}
    assert values == {
        "slots that stood still at off": "0 of 25",
        "slots that stood still at request": "0 of 6",
        "slots that stood still at step": "6 of 6",
    }


def test_what_the_host_pays_is_the_sum_of_its_processes():
    levels = {"request": 6.0, "step": 7.0}
    slots = [
        replace(_slot(label, 0.0), cpu_ms={"worker": levels.get(label, 5.0), "exporter": 1.5})
        for label in order(6)
    ]
    values = {row.figure: row.value for row in table.host_rows(slots)}
    assert values == {
        "CPU of vLLM and the exporter at off": "6.5 ms per request",
        "CPU of vLLM and the exporter at request": "7.5 ms per request",
        "CPU of vLLM and the exporter at step": "8.5 ms per request",
    }


QUIET = Interval(1.0, 0.997, 1.003, 50)


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict"),
    [
        (1.009, QUIET, table.MET),
        (1.011, QUIET, table.MISSED),
        (1.0, Interval(1.0, 0.99, 1.01, 50), table.NOT_SHOWN),
    ],
)
def test_verdict_of_cost(ratio, noise, verdict):
    assert table.verdict_of(Interval(ratio, ratio, ratio, 9), noise, True) == verdict


def test_verdict_of_throughput_looks_the_other_way():
    slow, fast = Interval(0.985, 0.98, 0.99, 9), Interval(1.02, 1.0, 1.03, 9)
    assert table.verdict_of(slow, QUIET, False) == table.MISSED
    assert table.verdict_of(fast, QUIET, False) == table.MET
