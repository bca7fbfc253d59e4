"""A cure names flags that vLLM has, and docs/report.md has the same table."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from vllm_codesign.analysis.cures import (
    AHEAD,
    CURES,
    LOOP,
    NOT_AHEAD,
    ONE_CPU,
    POOL,
    Cure,
    change,
    workers,
)
from vllm_codesign.semconv import AVOIDABLE_PARTS, Part
from vllm_codesign.store.capture import CpuFacts, ProcessCpus, RunInfo

FLAG = re.compile(r"--[a-z][a-z0-9-]+")


def flags() -> set[str]:
    texts = [text for cure in CURES for text in (cure.change, cure.old_change)]
    return {flag for text in texts for flag in FLAG.findall(text)}


def test_flags_are_vllms() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    # Where its command line is declared; importing it takes as long as all of these tests.
    root = Path(found.origin).parent
    declared = "".join(
        path.read_text()
        for path in (root / "engine" / "arg_utils.py", *root.glob("entrypoints/**/cli_args.py"))
    )
    assert len(flags()) >= 8
    assert {flag for flag in flags() if f'"{flag}"' not in declared} == set()


def test_every_avoidable_part_has_a_cure_of_its_own() -> None:
    assert AVOIDABLE_PARTS - {cure.part for cure in CURES} == {Part.ENGINE_QUEUE}
    causes = [cure.cause for cure in CURES]
    assert len(causes) == len(set(causes))
    assert {c.cause for c in CURES if c.part is Part.FRONTEND_WAIT} == {POOL, LOOP}
    assert all(cure.cause == cure.part for cure in CURES if cure.cause not in (POOL, LOOP))


def run(version: str = "0.32.0", cpus: int | None = None) -> RunInfo:
    process = [ProcessCpus(pid=1, role="api_server", cpus="0", cpu_count=cpus)] if cpus else []
    return RunInfo(
        run_id="r",
        pid=1,
        started_ns=0,
        versions={"vllm": version},
        cpu=CpuFacts(processes=[*process, ProcessCpus(pid=2, role="worker", cpus="", cpu_count=1)]),
    )


@pytest.mark.parametrize(
    ("clients", "cpus", "wanted"),
    [(None, None, 8), (3, None, 3), (32, 4, 4), (32, 64, 8), (1, 64, 2), (32, 1, 2)],
)
def test_workers(clients: int | None, cpus: int | None, wanted: int) -> None:
    assert workers(clients, run(cpus=cpus)) == wanted
    assert workers(clients, None) == max(2, min(8, clients or 8))


def _cure(cause: str) -> Cure:
    return next(cure for cure in CURES if cure.cause == cause)


def test_one_cpu_is_the_cure_where_there_is_but_one() -> None:
    assert change(_cure(POOL), 16, run(cpus=1)) == ONE_CPU
    assert "--renderer-num-workers 2" in change(_cure(POOL), 16, run(cpus=2))


def test_nobody_is_told_a_flag_that_vllm_sets_back() -> None:
    schedule = _cure("device.gap.schedule")
    assert change(schedule, 16, run("0.32.0")).startswith(AHEAD)
    assert change(schedule, 16, run("0.32.0+cpu")).startswith(NOT_AHEAD)


@pytest.mark.parametrize(
    ("queued", "flag"),
    [
        ({"behind_head": 90.0, "token_budget": 9.0, "no_free_blocks": 1.0}, "max-num-batched"),
        ({"no_free_blocks": 5.0, "no_slot": 1.0}, "gpu-memory-utilization"),
        ({"preemption": 5.0}, "gpu-memory-utilization"),
        ({"no_slot": 5.0}, "max-num-seqs"),
    ],
)
def test_a_full_device_is_cured_by_what_held_the_queues_head(
    queued: dict[str, float], flag: str
) -> None:
    capacity = _cure("queue.capacity")
    assert flag in change(capacity, 16, None, queued)
    assert change(capacity, 16, None, {"behind_head": 9.0}) == "more devices"


@pytest.mark.parametrize("version", ["0.19.0", "0.19.0+cpu", "0.19.1"])
def test_a_version_without_the_flag_gets_another_cure(version: str) -> None:
    (pool,) = (cure for cure in CURES if cure.cause == POOL)
    assert "--renderer-num-workers" not in change(pool, 32, run(version))
    assert "--renderer-num-workers" in change(pool, 32, run("0.32.0"))
    assert "--renderer-num-workers" in change(pool, 32, None)
