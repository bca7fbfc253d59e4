"""Batches of a scenario as scenarios of their own.

A scenario's mean hides what changes from one batch to the next. With the study's identical
prompts the first batch meets an empty cache and all others a full one: their mean is a time
that no request took.
"""

from __future__ import annotations

from vllm_codesign.model.bench import BenchRun


def by_batch(run: BenchRun) -> BenchRun:
    """The same requests; each of a scenario's several batches is called `NAME.1`, `NAME.2`, ..."""
    several = {scenario.name for scenario in run.scenarios if scenario.repeats > 1}
    scenarios = []
    for scenario in run.scenarios:
        if scenario.name not in several:
            scenarios.append(scenario)
            continue
        scenarios.extend(
            scenario.model_copy(update={"name": batch_name(scenario.name, repeat), "repeats": 1})
            for repeat in range(scenario.repeats)
        )
    requests = [
        row.model_copy(update={"scenario": batch_name(row.scenario, row.repeat)})
        if row.scenario in several
        else row
        for row in run.requests
    ]
    return run.model_copy(update={"scenarios": scenarios, "requests": requests})


def batch_name(scenario: str, repeat: int) -> str:
    """Of batch `repeat`, from 0 on."""
    return f"{scenario}.{repeat + 1}"
