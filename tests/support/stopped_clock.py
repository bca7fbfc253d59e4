"""A clock that only moves when it is told to, in place of the module `time`."""

from __future__ import annotations


class StoppedClock:
    """What `vllm_codesign.micro` asks of `time`, in whole nanoseconds; begins at 1,000 s."""

    def __init__(self) -> None:
        self.wall_ns = 1_000_000_000_000
        self.cpu_ns = 0

    def sleep(self, seconds: float) -> None:
        """Others have the CPU meanwhile."""
        self.wall_ns += round(seconds * 1e9)

    def work(self, seconds: float) -> None:
        self.sleep(seconds)
        self.cpu_ns += round(seconds * 1e9)

    def monotonic(self) -> float:
        return self.wall_ns / 1e9

    def perf_counter_ns(self) -> int:
        return self.wall_ns

    def process_time_ns(self) -> int:
        return self.cpu_ns

    def time_ns(self) -> int:
        return self.wall_ns
