"""A ceiling is the time under the causes that a recommendation touches, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.analysis.test_verdict import scenario
from vllm_codesign.analysis.cures import CURES
from vllm_codesign.analysis.recommendations import (
    RECOMMENDATIONS,
    ceilings,
    ceilings_sheet,
)
from vllm_codesign.semconv import HOST_PARTS

PARTS = {
    "device.decode": 50.0,
    "device.gap.schedule": 4.0,
    "device.gap.prepare": 3.0,
    "device.gap.update": 2.0,
    "device.gap.ipc": 1.0,
    "device.gap.output": 0.5,
    "device.gap.other": 0.25,
    "queue.host": 1.25,
    "queue.capacity": 10.0,
    "ipc": 2.0,
    "frontend.cpu": 6.0,
    "frontend.wait": 20.0,
}
"""100 ms; of the wait for the frontend 7 ms are in the pool (`test_verdict.scenario`)."""


def test_each_ceiling_is_the_time_under_its_causes() -> None:
    found = {each.recommendation.name: each for each in ceilings(scenario(PARTS))}
    host = 4 + 3 + 2 + 1 + 0.5 + 0.25 + 1.25 + 2 + 6 + 20
    assert {name: each.ms for name, each in found.items()} == pytest.approx(
        {
            "Pipeline scheduling with GPU execution": 4 + 3 + 2 + 1 + 0.5 + 1.25,
            "Move tokenization off main event loop": 7.0,
            "Batch scheduling decisions": 4.0,
            "Pre-allocate KV blocks speculatively": 4.0,
            "NUMA affinity": host,
            "CPU frequency governor": host,
            "Dedicated CPU cores for scheduler": host,
        }
    )
    assert all(each.share == pytest.approx(each.ms / 100) for each in found.values())


def test_no_ceiling_is_above_the_exposed_host_time() -> None:
    made = scenario(PARTS)
    assert made.accounts is not None
    assert max(each.ms for each in ceilings(made)) == pytest.approx(made.accounts.exposed.mean)


def test_causes_are_known_and_the_hosts() -> None:
    by_cause = {cure.cause: cure.part for cure in CURES}
    for recommendation in RECOMMENDATIONS:
        assert {by_cause[cause] for cause in recommendation.causes} <= HOST_PARTS


def test_without_steps_there_is_no_ceiling() -> None:
    made = scenario({"engine.decode": 90.0, "frontend.wait": 10.0}, stepwise=False)
    assert ceilings(made) == ()
    assert ceilings_sheet(made) is None
    assert ceilings(replace(made, accounts=None)) == ()


def test_the_sheet_has_the_studys_expectation_beside_it() -> None:
    sheet = ceilings_sheet(scenario(PARTS))
    assert sheet is not None
    assert sheet.rows[2] == (
        "1",
        "Batch scheduling decisions",
        "3–5 % at high concurrency",
        "4.00",
        "4.0",
    )
