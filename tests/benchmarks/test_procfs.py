import os
import threading
import time

import pytest

from benchmarks.machine import cpu_ticks, steal_share
from benchmarks.procfs import CpuTime, cpu_time, cpu_used, parse_schedstat


def test_schedstat_is_time_on_cpu_wait_and_slices():
    assert parse_schedstat("27195773 114821994 125\n") == 27_195_773


def test_anything_else_is_no_schedstat():
    with pytest.raises(ValueError, match="not a schedstat line"):
        parse_schedstat("1 2")


def test_snapshot_reads_every_thread(tmp_path):
    for tid, ns in ((7, 100), (8, 250)):
        task = tmp_path / "7" / "task" / str(tid)
        task.mkdir(parents=True)
        (task / "schedstat").write_text(f"{ns} 0 1\n")
    (tmp_path / "7" / "task" / "9").mkdir()  # ended between listing and reading
    assert cpu_time(7, tmp_path) == CpuTime({7: 100, 8: 250})
    with pytest.raises(FileNotFoundError):
        cpu_time(6, tmp_path)


def test_new_threads_count_in_full_and_ended_ones_are_counted():
    used = cpu_used(CpuTime({1: 100, 2: 50}), CpuTime({1: 160, 3: 7}))
    assert (used.ns, used.exited) == (67, 1)


def test_a_busy_thread_shows_in_this_process():
    def spin():
        end = time.thread_time_ns() + 50_000_000
        while time.thread_time_ns() < end:
            pass
        done.set()
        release.wait()

    done, release = threading.Event(), threading.Event()
    thread = threading.Thread(target=spin)
    before = cpu_time(os.getpid())
    thread.start()
    done.wait()
    time.sleep(0.01)
    used = cpu_used(before, cpu_time(os.getpid()))
    release.set()
    thread.join()
    assert 45_000_000 < used.ns < 500_000_000


def test_steal_is_a_share_of_all_ticks():
    before = {"ticks": cpu_ticks("cpu  10 0 10 70 0 0 0 10 0 0\ncpu0 1 2\n")}
    after = {"ticks": cpu_ticks("cpu  20 0 10 100 0 0 0 20 0 0\n")}
    assert steal_share(before, after) == pytest.approx(0.2)
