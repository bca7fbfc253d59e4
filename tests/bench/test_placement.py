import os
import subprocess
import sys
import threading

import pytest

from vllm_codesign.bench import placement


@pytest.mark.parametrize(
    ("available", "workers", "expected"),
    [
        ({0, 1}, {0}, ({0}, {1})),
        ({0, 1}, {0, 1}, ({0}, {1})),
        ({4, 5, 6, 7}, {6}, ({6}, {4, 5, 7})),
        ({0, 1, 2, 3}, {8, 9}, ({0, 1}, {2, 3})),
        ({3}, {3}, None),
    ],
)
def test_what_spins_has_cores_of_its_own(available, workers, expected):
    assert placement.split(available, workers) == expected


def test_all_threads_are_pinned():
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("one core")
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        one = {min(before)}
        placement.pin(os.getpid(), one)
        assert os.sched_getaffinity(thread.native_id) == one
        assert os.sched_getaffinity(0) == one
    finally:
        placement.pin(os.getpid(), before)
        over.set()
        thread.join()


def test_all_threads_go_after_the_others():
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import threading; threading.Thread(target=input).start(); print(flush=True)",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout.readline() == b"\n"
    placement.renice(child.pid, 7)
    threads = os.listdir(f"/proc/{child.pid}/task")
    assert len(threads) == 2
    assert [os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in threads] == [7, 7]
    child.communicate(b"\n")
    assert child.returncode == 0
