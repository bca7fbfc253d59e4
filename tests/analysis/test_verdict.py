"""The verdict is given only where the data carries it; the refusals say why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from vllm_codesign.accounting import EngineTime, Fleet
from vllm_codesign.analysis import verdict
from vllm_codesign.analysis.accounts import LATENCY, THROUGHPUT, Accounts
from vllm_codesign.analysis.cure_sheet import cure_sheet
from vllm_codesign.analysis.cure_texts import AHEAD
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.analysis.tables import NO_CLIENT, Scenario, Tables
from vllm_codesign.analysis.verdict import Verdict, verdicts
from vllm_codesign.model.bench import BenchRun
from vllm_codesign.model.bench import Scenario as Load
from vllm_codesign.semconv import HOST_PARTS, Part
from vllm_codesign.store.capture import CpuFacts, ProcessCpus, RunInfo

N = 40
POOL_BOUND = {"frontend.wait": 8.0, "ipc": 1.0, "device.decode": 88.0, "queue.capacity": 3.0}
IDLE = {"prepare": 60, "schedule": 30, "no_work": 5_000}


def stat(mean: float, n: int = N) -> Stat:
    return Stat(n, mean, mean, mean)


def scenario(
    parts: Mapping[str, float],
    name: str = "conc32",
    n: int = N,
    pool: tuple[float, float] = (0.0, 7.0),
    largest: Mapping[str, int] | None = None,
    idle: Mapping[str, int] | None = None,
    steps: int = 500,
    stepwise: bool = True,
) -> Scenario:
    total = sum(parts.values())
    exposed = sum(ms for part, ms in parts.items() if Part(part) in HOST_PARTS)
    idle = IDLE if idle is None else idle
    engine = EngineTime(4711, 910, idle, 0, steps)
    accounts = Accounts(
        n=n,
        parts={part: stat(ms, n) for part, ms in parts.items()},
        exposed=stat(exposed, n),
        hidden=stat(0.0, n),
        total=stat(total, n),
        device=stat(parts.get("device.decode", 0.0), n),
        ttft=None,
        ttft_without_host=None,
        ttft_parts={},
        bottlenecks={"frontend.wait": n} if largest is None else dict(largest),
        queued={},
        stepwise=stepwise,
        fleet=Fleet((engine,), 0, engine.window_ns),
    )
    waits = dict(zip(("template_wait", "tokenize_wait"), (stat(ms, n) for ms in pool), strict=True))
    return Scenario(name, True, n, {}, 0, {"completed": n}, {}, dict(waits), None, (), accounts)


def said(
    *scenarios: Scenario,
    lossy: tuple[str, ...] = (),
    differing: int = 0,
    version: str = "0.32.0",
    cpus: int = 4,
) -> tuple[Verdict, Verdict]:
    loads = {"single": 1, "conc4": 4, "conc32": 32}
    bench = BenchRun(
        tool_version="0",
        url="",
        model="tiny",
        started_unix_ns=0,
        scenarios=[Load(name=n, concurrency=c, prompt_tokens=10) for n, c in loads.items()],
        requests=[],
    )
    known = [s for s in scenarios if s.name != NO_CLIENT]
    process = ProcessCpus(pid=1, role="api_server+http", cpus="0-3", cpu_count=cpus)
    run = RunInfo(
        run_id="r",
        pid=1,
        started_ns=0,
        versions={"vllm": version},
        cpu=CpuFacts(processes=[process]),
    )
    latency, throughput = verdicts(
        Tables(scenarios, 0, 0, differing), bench if known else None, run, lossy
    )
    assert (latency.view, throughput.view) == (LATENCY, THROUGHPUT)
    return latency, throughput


def test_the_largest_cause_its_cure_and_the_most_it_can_remove() -> None:
    found, _ = said(scenario(POOL_BOUND))
    assert found.cause == "frontend.wait: pool"
    assert found.sentence == (
        "Host exposed 9.0 % of the waiting time at 32 clients (latency, per request); 7.0 of these "
        "9.0 points are tokenizer pool wait: `--renderer-num-workers 4` can remove at most those."
    )


def test_the_pool_is_not_the_whole_of_waiting_in_the_frontend() -> None:
    found, _ = said(scenario({**POOL_BOUND, "ipc": 0.5}, pool=(0.5, 0.5)))
    assert found.cause == "frontend.wait: other"
    assert "7.0 of these 8.5 points are waiting in the API server" in found.sentence
    # What overlaps with the device's work is in no part: the wait is never more than its part.
    found, _ = said(scenario(POOL_BOUND, pool=(5.0, 9.0)))
    assert "8.0 of these 9.0 points are tokenizer pool wait" in found.sentence


def test_throughput_is_a_sentence_of_its_own() -> None:
    _, found = said(scenario(POOL_BOUND))
    assert found.cause == "prepare"
    assert found.sentence == (
        "The device stood idle because of the host 9.0 % of the time while there was work at 32 "
        "clients (throughput, per fleet); 6.0 of these 9.0 points are preparing batches on the "
        f"worker: {AHEAD}; no `--enforce-eager` can gain at most 1.06 x the throughput."
    )


def test_what_is_not_the_hosts_is_said_to_be_so() -> None:
    parts = {"queue.capacity": 40.0, "ipc": 3.0, "device.decode": 57.0}
    found, _ = said(scenario(parts, largest={"queue.capacity": N}))
    assert found.cause == "queue.capacity"
    assert "Host exposed 3.0 %" in found.sentence
    assert "the largest avoidable part is not the host's: 40 % is waiting for" in found.sentence


def test_of_several_scenarios_the_one_with_the_most_clients() -> None:
    few = scenario({"ipc": 50.0, "device.decode": 50.0}, "single", largest={"ipc": N})
    found, _ = said(few, scenario(POOL_BOUND), replace(few, name=NO_CLIENT))
    assert "at 32 clients" in found.sentence
    found, _ = said(few)
    assert "at 1 client (" in found.sentence
    found, _ = said(replace(few, name=NO_CLIENT))
    assert "of all requests (" in found.sentence


def test_workers_are_those_that_clients_and_cpus_can_use() -> None:
    found, _ = said(scenario(POOL_BOUND, "conc4"), cpus=64)
    assert "`--renderer-num-workers 4`" in found.sentence
    found, _ = said(scenario(POOL_BOUND), cpus=64)
    assert "`--renderer-num-workers 8`" in found.sentence
    found, _ = said(scenario(POOL_BOUND), cpus=1)
    assert "`--renderer-num-workers 2`" in found.sentence


def test_workers_that_the_server_has_are_not_suggested() -> None:
    made = scenario(POOL_BOUND)
    assert made.accounts is not None
    for threads, cure in (
        (3, "`--renderer-num-workers 4`"),
        (4, "more CPUs for the API server (its 4 renderer threads may use 4)"),
        (6, "more CPUs for the API server (its 6 renderer threads may use 4)"),
    ):
        found = replace(made, accounts=replace(made.accounts, pool_threads=threads))
        verdict, _ = said(found)
        assert verdict.sentence.endswith(f"tokenizer pool wait: {cure} can remove at most those.")
        sheet = cure_sheet(found, 32, None)
        assert sheet is not None
        assert sheet.rows[0][2] == "`--renderer-num-workers 8`"


def test_0_19_has_no_such_workers() -> None:
    found, _ = said(scenario(POOL_BOUND), version="0.19.0+cpu")
    assert "--renderer-num-workers" not in found.sentence
    assert "`--api-server-count`" in found.sentence


def test_where_nothing_can_be_gained_it_says_that() -> None:
    found, idle = said(scenario({"device.decode": 99.5, "ipc": 0.5}, idle={"prepare": 5}))
    assert found.cause is None
    assert found.sentence == (
        "Host exposed 0.5 % of the waiting time at 32 clients (latency, per request); no avoidable "
        "cause reaches 1 %, so there is nothing to change."
    )
    assert idle.sentence.endswith("no avoidable cause reaches 1 %, so there is nothing to change.")


REFUSALS = {
    "nobody": ((), {}, "no completed request is accounted for"),
    "lossy": (
        (scenario(POOL_BOUND),),
        {"lossy": ("3 records were lost",)},
        "the capture is lossy, and what is lost may be the cause: 3 records were lost",
    ),
    "steps missing": (
        (scenario(POOL_BOUND),),
        {"differing": 2},
        "2 requests are accounted for otherwise than when they ended, so steps are missing",
    ),
    "level": ((scenario(POOL_BOUND, stepwise=False),), {}, "recorded below level `step`"),
    "few": (
        (scenario(POOL_BOUND, n=29),),
        {},
        "only 29 completed requests at 32 clients are accounted for, 30 are asked",
    ),
    "not explained": (
        (scenario({**POOL_BOUND, "unattributed": 4.0, "device.gap.other": 3.0}),),
        {},
        "of the time is not explained, more than any cause takes",
    ),
    "too close": (
        (scenario({**POOL_BOUND, "queue.capacity": 4.7}),),
        {},
        "tokenizer pool wait (6.9 %) and waiting for a busy or full device (4.6 %) are too close",
    ),
    "of a few requests only": (
        (scenario(POOL_BOUND, largest={"ipc": 21, "frontend.wait": 19}),),
        {},
        "is the largest avoidable part of only 19 of 40 requests at 32 clients",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_said_is_one_sentence_with_the_reason(name: str) -> None:
    scenarios, more, why = REFUSALS[name]
    found, _ = said(*scenarios, **more)  # type: ignore[arg-type]
    assert found.cause is None
    assert found.sentence.startswith("No verdict (latency, per request): ")
    assert why in found.sentence
    assert found.sentence.count("\n") == 0
    assert found.sentence.endswith(".")


def test_each_condition_holds_at_its_bound() -> None:
    assert verdict.MIN_REQUESTS == 30
    assert said(scenario(POOL_BOUND, n=30))[0].cause
    assert said(scenario({**POOL_BOUND, "queue.capacity": 4.6}))[0].cause, "7 is 1.5 x 4.6"
    assert said(scenario(POOL_BOUND, largest={"ipc": 20, "frontend.wait": 20}))[0].cause
    explained = {**POOL_BOUND, "unattributed": 6.9}
    assert said(scenario(explained))[0].cause


def test_the_throughput_view_asks_for_steps_of_its_own() -> None:
    _, found = said(scenario(POOL_BOUND, steps=99))
    assert found.sentence == (
        "No verdict (throughput, per fleet): only 99 engine steps at 32 clients are known, 100 "
        "are asked."
    )
    _, found = said(scenario(POOL_BOUND, idle={"prepare": 60, "schedule": 50}))
    assert "are too close to tell" in found.sentence
    _, found = said(scenario(POOL_BOUND, idle={"prepare": 60, "other": 61}))
    assert "is not explained" in found.sentence
