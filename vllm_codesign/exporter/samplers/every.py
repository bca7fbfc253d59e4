"""All samplers of one exporter, asked once a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from vllm_codesign.exporter import run_file
from vllm_codesign.exporter.samplers.gil import Gil
from vllm_codesign.exporter.samplers.gpu import GpuTelemetry
from vllm_codesign.exporter.samplers.host import HostFacts
from vllm_codesign.exporter.samplers.loop_lag import LoopLag
from vllm_codesign.exporter.samplers.own import OwnUsage
from vllm_codesign.exporter.samplers.sampler import Process, Sample, Sampler
from vllm_codesign.exporter.samplers.threads import Threads
from vllm_codesign.exporter.samplers.workers import Workers
from vllm_codesign.recorder.reader import Record
from vllm_codesign.recorder.session import Session
from vllm_codesign.store.capture import CpuFacts

logger = logging.getLogger(__name__)


class Samplers:
    """While the level is off, nobody asks the kernel or a driver."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._roles = run_file.Roles(session)
        self._threads = Threads()
        self._host = HostFacts()
        self._gpu = GpuTelemetry(wanted=lambda: session.level > 0)
        self._off = False
        from_records = (Workers(time.monotonic_ns()), LoopLag(), Gil())
        self._by_kind = {kind.value: sampler for sampler in from_records for kind in sampler.KINDS}
        self._samplers: list[Sampler] = [*from_records, OwnUsage(), self._threads, self._gpu]

    def start(self) -> None:
        """Begin with what runs by itself."""
        self._gpu.start()

    def take(self, pid: int, record: Record) -> None:
        """A record; those that no sampler reads are passed over."""
        sampler = self._by_kind.get(record.kind)
        if sampler is not None:
            sampler.take(pid, record)

    def processes(self, pids: list[int]) -> list[Process]:
        """Those of `pids`, with their roles."""
        roles = self._roles.look()
        return [Process(pid, roles.get(pid, "")) for pid in pids]

    def sample(self, now_ns: int, pids: list[int]) -> Iterator[Sample]:
        """Everything since the last call; `pids` are the producers that still run."""
        off = self._session.level == 0
        if off and not self._off:
            self._threads.forget()  # or the first sample afterwards would be of the whole pause
        self._off = off
        self._threads.processes = [] if off else self.processes(pids)
        for sampler in list(self._samplers):
            try:
                yield from sampler.sample(now_ns)
            except Exception:  # figures beside the traces must not cost the traces
                self._samplers.remove(sampler)
                name = type(sampler).__name__
                logger.exception("codesign: no more samples of %s", name)

    def facts(self, now_ns: int, pids: list[int]) -> CpuFacts:
        """Where those processes may run."""
        return self._host.look(now_ns, self.processes(pids))

    def close(self) -> None:
        self._gpu.close()
