"""Threads: recorded /proc files, bad ones, and the live /proc of this process."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from vllm_codesign.exporter.samplers.sampler import Process, Sample
from vllm_codesign.exporter.samplers.threads import (
    BUSIEST,
    Scheduled,
    Switches,
    Threads,
    Unreadable,
    parse_schedstat,
    parse_status,
)

SECOND = 1_000_000_000

# Of an EngineCore, Linux 6.12.
STATUS = """\
Name:\tVLLM::EngineCor
Umask:\t0022
State:\tR (running)
Tgid:\t4711
Pid:\t{tid}
Threads:\t3
Cpus_allowed:\tff
Cpus_allowed_list:\t0-7
Mems_allowed_list:\t0
voluntary_ctxt_switches:\t{voluntary}
nonvoluntary_ctxt_switches:\t{involuntary}
"""


def thread(
    proc: Path, tid: int, ran_ns: int, waited_ns: int, switches: tuple[int, int] = (0, 0)
) -> None:
    folder = proc / "4711" / "task" / str(tid)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedstat").write_text(f"{ran_ns} {waited_ns} 12\n")
    (folder / "status").write_text(
        STATUS.format(tid=tid, voluntary=switches[0], involuntary=switches[1])
    )


def remove(proc: Path, tid: int) -> None:
    folder = proc / "4711" / "task" / str(tid)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def threads(proc: Path) -> Threads:
    made = Threads(proc)
    made.processes = [Process(4711, "engine_core")]
    return made


def rows(samples: list[Sample]) -> dict[tuple[str, ...], float]:
    """By series, thread and type of switch."""
    return {
        tuple(
            str(part)
            for part in (
                sample.series.name.removeprefix("codesign."),
                sample.attributes.get("thread.id"),
                sample.attributes.get("process.context_switch.type"),
            )
            if part is not None
        ): sample.value
        for sample in samples
    }


def test_recorded_files() -> None:
    assert parse_schedstat("8123456789 55000111 90210\n") == Scheduled(8123456789, 55000111)
    assert parse_status(STATUS.format(tid=1, voluntary=77, involuntary=5)) == (
        "VLLM::EngineCor",
        Switches(77, 5),
    )


@pytest.mark.parametrize("text", ["", "12\n", "1 2\n", "1 2 3 4", "a b c", "-1 2 3", "1.5 2 3"])
def test_a_schedstat_that_is_none(text: str) -> None:
    with pytest.raises(Unreadable):
        parse_schedstat(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "Name:\tx\n",
        "Name:\tx\nvoluntary_ctxt_switches:\t7\n",
        "Name:\tx\nvoluntary_ctxt_switches:\tmany\nnonvoluntary_ctxt_switches:\t1\n",
    ],
)
def test_a_status_that_is_none(text: str) -> None:
    with pytest.raises(Unreadable):
        parse_status(text)


def test_rates_of_a_second(tmp_path: Path) -> None:
    sampler = threads(tmp_path)
    thread(tmp_path, 4711, 5 * SECOND, SECOND, (100, 10))
    thread(tmp_path, 4712, 3 * SECOND, 0, (5, 5))
    assert list(sampler.sample(10 * SECOND)) == [], "the first look is where it counts from"
    thread(tmp_path, 4711, 6 * SECOND, SECOND + SECOND // 2, (140, 30))
    thread(tmp_path, 4712, 3 * SECOND + SECOND // 50, 0, (6, 5))
    samples = list(sampler.sample(12 * SECOND))
    assert rows(samples) == pytest.approx(
        {
            ("process.cpu",): 0.51,
            ("process.run_queue_wait",): 0.25,
            ("process.context_switches", "voluntary"): 20.5,
            ("process.context_switches", "involuntary"): 10.0,
            ("thread.cpu", "4711"): 0.5,
            ("thread.run_queue_wait", "4711"): 0.25,
            ("thread.context_switches", "4711", "voluntary"): 20.0,
            ("thread.context_switches", "4711", "involuntary"): 10.0,
        }
    ), "thread 4712 used 1 % of a core: it is in the sum alone"
    who = {"process.pid": 4711, "codesign.process.role": "engine_core"}
    assert samples[0].attributes == who
    assert samples[4].attributes == {
        **who,
        "thread.id": 4711,
        "thread.name": "VLLM::EngineCor",
    }
    for sample in samples:
        assert set(sample.attributes) == {each.key for each in sample.series.attributes}


def test_a_server_with_many_threads_writes_few_rows(tmp_path: Path) -> None:
    sampler = threads(tmp_path)
    for tid in range(200):
        thread(tmp_path, 5000 + tid, 0, 0)
    list(sampler.sample(0))
    for tid in range(200):
        thread(tmp_path, 5000 + tid, SECOND // 2 + tid, 0)
    found = rows(list(sampler.sample(SECOND)))
    named = sorted({key[1] for key in found if key[0] == "thread.cpu"})
    assert named == ["5195", "5196", "5197", "5198", "5199"]
    assert len(found) == 4 * (1 + BUSIEST)
    assert found["process.cpu",] == pytest.approx(100, rel=1e-6)


def test_threads_come_and_go(tmp_path: Path) -> None:
    sampler = threads(tmp_path)
    thread(tmp_path, 4711, SECOND, 0)
    thread(tmp_path, 4712, 9 * SECOND, 0)
    list(sampler.sample(0))
    remove(tmp_path, 4712)
    thread(tmp_path, 4713, SECOND // 4, 0)
    found = rows(list(sampler.sample(SECOND)))
    assert found["process.cpu",] == 0.25, "one that began meanwhile counts whole"
    thread(tmp_path, 4713, SECOND // 8, 0)
    found = rows(list(sampler.sample(2 * SECOND)))
    assert found["process.cpu",] == 0.125, "its number was given to another thread"


def test_a_process_that_ends_is_left_out(tmp_path: Path) -> None:
    sampler = threads(tmp_path)
    thread(tmp_path, 4711, SECOND, 0)
    list(sampler.sample(0))
    remove(tmp_path, 4711)
    (tmp_path / "4711" / "task").rmdir()
    assert list(sampler.sample(SECOND)) == []
    thread(tmp_path, 4711, SECOND, 0)
    assert list(sampler.sample(2 * SECOND)) == [], "a process anew"


def test_a_thread_that_ends_while_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = threads(tmp_path)
    thread(tmp_path, 4711, 0, 0)
    (tmp_path / "4711" / "task" / "4712").symlink_to(tmp_path / "gone")
    list(sampler.sample(0))
    thread(tmp_path, 4711, SECOND, 0)
    assert rows(list(sampler.sample(SECOND)))["process.cpu",] == 1.0
    assert caplog.records == []


def test_files_that_cannot_be_read_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = threads(tmp_path)
    thread(tmp_path, 4711, 0, 0)
    for tid in (4712, 4713):
        thread(tmp_path, tid, 0, 0)
        (tmp_path / "4711" / "task" / str(tid) / "schedstat").write_text("garbage\n")
    thread(tmp_path, 4714, 0, 0)
    (tmp_path / "4711" / "task" / "4714" / "schedstat").unlink()
    list(sampler.sample(0))
    thread(tmp_path, 4711, SECOND, 0)
    assert rows(list(sampler.sample(SECOND)))["process.cpu",] == 1.0
    assert [(r.levelname, "schedstat" in r.getMessage()) for r in caplog.records] == [
        ("WARNING", True)
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_after_a_pause_it_counts_from_anew(tmp_path: Path) -> None:
    sampler = threads(tmp_path)
    thread(tmp_path, 4711, 0, 0)
    list(sampler.sample(0))
    sampler.forget()
    thread(tmp_path, 4711, 100 * SECOND, 0)
    assert list(sampler.sample(1000 * SECOND)) == []
    thread(tmp_path, 4711, 101 * SECOND, 0)
    assert rows(list(sampler.sample(1001 * SECOND)))["process.cpu",] == 1.0


def test_this_process_as_it_lives() -> None:
    """A thread that spins uses the CPU that the kernel says it uses."""
    stop, looked = threading.Event(), threading.Event()
    spun: list[float] = []

    def spin() -> None:
        begin = time.thread_time()
        while not stop.is_set():
            pass
        spun.append(time.thread_time() - begin)
        looked.wait()  # its times go with it

    sampler = Threads()
    sampler.processes = [Process(os.getpid(), "")]
    begin = time.monotonic_ns()
    assert list(sampler.sample(begin)) == []
    worker = threading.Thread(target=spin)
    worker.start()
    time.sleep(0.5)
    stop.set()
    end = time.monotonic_ns()
    samples = list(sampler.sample(end))
    tid = worker.native_id
    looked.set()
    worker.join()
    found = rows(samples)
    interval_s = (end - begin) / SECOND
    assert found["process.cpu",] * interval_s >= 0.8 * spun[0]
    assert found["process.cpu",] <= os.cpu_count() * 1.2  # type: ignore[operator]
    assert spun[0] < 0.06 * interval_s or ("thread.cpu", str(tid)) in found
    assert "codesign.process.role" not in samples[0].attributes
