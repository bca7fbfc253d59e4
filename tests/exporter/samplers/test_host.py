"""Facts of the host: recorded /proc and /sys, bad lines, and those of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllm_codesign.exporter.samplers.host import (
    LOOK_AGAIN_NS,
    HostFacts,
    format_cpus,
    parse_allowed,
    parse_cpus,
)
from vllm_codesign.exporter.samplers.sampler import Process
from vllm_codesign.store.capture import ProcessCpus


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}), ("5\n", {5}), ("\n", set()), ("", set())],
)
def test_lists_of_cpus(text: str, cpus: set[int]) -> None:
    assert parse_cpus(text) == cpus
    assert format_cpus(cpus) == text.strip()


@pytest.mark.parametrize("text", ["x", "1-", "3-1", "-1", "0-999999999", "1;2"])
def test_what_is_no_list_of_cpus(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_cpus(text)


def test_affinity_of_a_status_file() -> None:
    assert parse_allowed("Name:\tx\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n") == {0, 1}
    with pytest.raises(ValueError, match="Cpus_allowed_list"):
        parse_allowed("Name:\tx\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sockets, one of them in powersave; an EngineCore whose threads are pinned apart."""
    write = {
        "sys/devices/system/node/node0/cpulist": "0-3\n",
        "sys/devices/system/node/node1/cpulist": "4-7\n",
        "proc/10/task/10/status": "Cpus_allowed_list:\t0\n",
        "proc/10/task/11/status": "Cpus_allowed_list:\t1\n",
        "proc/10/task/12/status": "Cpus_allowed_list:\t5\n",
        "proc/20/task/20/status": "Cpus_allowed_list:\t4-7\n",
    }
    for cpu in range(8):
        governor = "performance" if cpu < 4 else "powersave"
        write[f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"] = f"{governor}\n"
    for name, text in write.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def facts(root: Path) -> HostFacts:
    return HostFacts(root / "proc", root / "sys")


def test_the_facts_of_a_run(root: Path) -> None:
    found = facts(root).look(1, [Process(10, "engine_core"), Process(20, "api_server")])
    assert found.numa_nodes == {"0": "0-3", "1": "4-7"}
    assert found.governors == {"performance": "0-3", "powersave": "4-7"}
    assert found.processes == [
        ProcessCpus(pid=10, role="engine_core", cpus="0-1,5", cpu_count=3, numa_nodes=[0, 1]),
        ProcessCpus(pid=20, role="api_server", cpus="4-7", cpu_count=4, numa_nodes=[1]),
    ]


def test_they_are_looked_up_once_a_minute_and_for_every_new_process(root: Path) -> None:
    host = facts(root)
    first = host.look(1, [Process(10, "")])
    (root / "proc/10/task/10/status").write_text("Cpus_allowed_list:\t2\n")
    assert host.look(LOOK_AGAIN_NS, [Process(10, "")]) is first
    assert host.look(LOOK_AGAIN_NS + 2, [Process(10, "")]).processes[0].cpus == "1-2,5"
    grown = host.look(LOOK_AGAIN_NS + 3, [Process(10, ""), Process(20, "")])
    assert [p.pid for p in grown.processes] == [10, 20]
    named = host.look(LOOK_AGAIN_NS + 4, [Process(20, "api_server")])
    assert [(p.pid, p.role) for p in named.processes] == [(10, ""), (20, "api_server")], (
        "what is gone keeps what was known of it"
    )


def test_a_process_that_is_gone_has_no_facts(root: Path) -> None:
    assert facts(root).look(1, [Process(99, "worker")]).processes == []


def test_bad_lines_are_said_once_and_the_rest_stays(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "sys/devices/system/node/node1/cpulist").write_text("four to seven\n")
    (root / "proc/10/task/11/status").write_text("garbage\n")
    found = facts(root).look(1, [Process(10, "")])
    assert found.numa_nodes == {"0": "0-3"}
    assert found.processes[0].cpus == "0,5"
    assert len(caplog.records) == 1
    assert "node1" in caplog.records[0].getMessage()


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = HostFacts(tmp_path / "no", tmp_path / "where").look(1, [Process(1, "")])
    assert (found.numa_nodes, found.governors, found.processes) == ({}, {}, [])


def test_this_machine() -> None:
    (mine,) = HostFacts().look(1, [Process(os.getpid(), "")]).processes
    assert set(parse_cpus(mine.cpus)) >= os.sched_getaffinity(0)
    assert mine.cpu_count == len(parse_cpus(mine.cpus))
