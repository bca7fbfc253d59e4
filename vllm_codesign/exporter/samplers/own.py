"""What the exporter itself costs."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from vllm_codesign import semconv
from vllm_codesign.exporter.samplers.sampler import Sample


class OwnUsage:
    """CPU time of this process since its start, all threads."""

    def sample(self, now_ns: int) -> Iterator[Sample]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = usage.ru_utime + usage.ru_stime
        yield Sample(
            now_ns, semconv.EXPORTER_CPU_TIME, cpu_s, {semconv.PROCESS_PID.key: os.getpid()}
        )
