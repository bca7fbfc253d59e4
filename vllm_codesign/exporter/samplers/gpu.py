"""GPU telemetry: utilization, memory, power and temperature of every GPU of the host.

A thread of its own asks the driver ten times a second, so that a slow driver holds up neither
the rings nor the store. All GPUs are sampled, not only the server's: what a neighbour does on
the same board is worth knowing, and `hw.id` tells them apart.

Two back ends, looked for in this order: nvidia-ml-py (or vLLM's copy of it) and amdsmi. Where
there is neither library, no driver or no GPU there is no telemetry, which is said once; a
figure that a device does not have is left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vllm_codesign import semconv
from vllm_codesign.exporter.samplers import gpu_amdsmi, gpu_nvml
from vllm_codesign.exporter.samplers.sampler import Sample
from vllm_codesign.model.trace import AttributeValue
from vllm_codesign.semconv import Series

logger = logging.getLogger(__name__)

PERIOD_S = 0.1
LIMIT_EVERY_NS = 60_000_000_000
"""The size of a GPU's memory does not change: once a minute is enough to find it."""
KEEP = 100_000
"""Samples of an exporter that does not come round to them: 4 minutes of 8 GPUs."""
_GIVE_UP = 50
"""Rounds in a row without one figure: 5 s, after which the driver is taken to be gone."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its library knows it."""

    index: int
    id: str
    """UUID."""
    name: str
    handle: Any


class Unavailable(Exception):
    """Why a back end cannot be used: one line for people."""


class Backend(Protocol):
    """One library. `open` raises what it likes; so may `read`, call by call."""

    library: str
    vendor: str
    device: str
    """The node in /dev that stands for a driver of this kind."""

    def open(self) -> list[tuple[str, str, Any]]:
        """Load the library and list the GPUs as (uuid, name, handle)."""
        ...

    def figures(self, handle: Any) -> Mapping[Series, Callable[[], float | None]]:
        """How to read each figure, in the unit of its series; None where there is none."""
        ...

    def why_not(self, error: Exception) -> str:
        """The cause in words."""
        ...

    def unsupported(self, error: Exception) -> bool:
        """Whether this error says that the device will never have the figure."""
        ...

    def close(self) -> None: ...


def backends() -> list[Backend]:
    """In order of preference."""
    return [gpu_nvml.Nvml(), gpu_amdsmi.AmdSmi()]


@dataclass(frozen=True, slots=True)
class Found:
    """A back end that works, and its GPUs."""

    backend: Backend
    gpus: tuple[Gpu, ...]


def find(candidates: Iterable[Backend]) -> Found | list[str]:
    """The first back end with a GPU, or why there is none, one line each."""
    reasons = []
    for backend in candidates:
        try:
            listed = backend.open()
        except Exception as error:  # noqa: BLE001  # a broken driver library raises anything
            reasons.append(f"{backend.library}: {backend.why_not(error)}")
            continue
        if listed:
            gpus = [Gpu(index, *each) for index, each in enumerate(listed)]
            return Found(backend, tuple(gpus))
        reasons.append(f"{backend.library}: no GPU")
        _close(backend)
    return reasons


def expected(candidates: Iterable[Backend], dev: Path = Path("/dev")) -> bool:
    """Whether there seems to be a GPU, so that having no telemetry is worth a warning."""
    return any((dev / backend.device).exists() for backend in candidates)


def _close(backend: Backend) -> None:
    try:
        backend.close()
    except Exception as error:  # noqa: BLE001
        logger.debug("codesign: %s does not shut down: %s", backend.library, error)


class _Device:
    """One GPU and those of its figures that can be read."""

    def __init__(self, backend: Backend, gpu: Gpu) -> None:
        self._backend = backend
        self._figures = dict(backend.figures(gpu.handle))
        self._limit_due_ns = 0
        self.failure: Exception | None = None
        """The last failure that was not "not supported"."""
        common: dict[str, AttributeValue] = {
            semconv.HW_ID.key: gpu.id,
            semconv.HW_NAME.key: gpu.name,
            semconv.HW_TYPE.key: "gpu",
            semconv.HW_VENDOR.key: backend.vendor,
            semconv.GPU_INDEX.key: gpu.index,
        }
        general = {**common, semconv.HW_GPU_TASK.key: "general"}
        self._attributes = {
            series: general if series is semconv.GPU_UTILIZATION else common
            for series in self._figures
        }

    def read(self, now_ns: int) -> Iterator[Sample]:
        for series, get in list(self._figures.items()):
            if series is semconv.GPU_MEMORY_LIMIT:
                if now_ns < self._limit_due_ns:
                    continue
                self._limit_due_ns = now_ns + LIMIT_EVERY_NS
            try:
                value = get()
            except Exception as error:  # noqa: BLE001
                if self._backend.unsupported(error):
                    del self._figures[series]
                else:
                    self.failure = error
                continue
            if value is not None:
                yield Sample(now_ns, series, value, self._attributes[series])


class GpuTelemetry:
    """Samples from `start` to `close`; `sample` hands out what has come in.

    `wanted` is asked before each round: while it is false nothing is read.
    """

    def __init__(
        self,
        wanted: Callable[[], bool] = lambda: True,
        candidates: Callable[[], list[Backend]] = backends,
        period_s: float = PERIOD_S,
        dev: Path = Path("/dev"),
    ) -> None:
        self._wanted = wanted
        self._candidates = candidates
        self._period_s = period_s
        self._dev = dev
        self._samples: deque[Sample] = deque(maxlen=KEEP)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        # A daemon: a driver call that never returns must not keep the exporter from ending.
        self._thread = threading.Thread(target=self._run, name="codesign-gpu", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def sample(self, now_ns: int) -> Iterator[Sample]:
        """Everything that was read since the last call, at its own times."""
        while self._samples:
            yield self._samples.popleft()

    def _run(self) -> None:
        candidates = self._candidates()
        found = find(candidates)
        if not isinstance(found, Found):
            # On a machine without GPUs this is as it should be.
            level = logging.WARNING if expected(candidates, self._dev) else logging.INFO
            logger.log(level, "codesign: no GPU telemetry: %s", "; ".join(found))
            return
        try:
            self._read_all([_Device(found.backend, gpu) for gpu in found.gpus], found.backend)
        except Exception as error:  # noqa: BLE001  # telemetry alone ends here
            logger.warning("codesign: no more GPU telemetry: %s: %s", type(error).__name__, error)
        finally:
            _close(found.backend)

    def _read_all(self, devices: list[_Device], backend: Backend) -> None:
        empty = 0
        said = False
        while not self._stop.is_set():
            began = time.monotonic()
            if self._wanted():
                got = [s for device in devices for s in device.read(time.monotonic_ns())]
                self._samples.extend(got)
                failures = [device.failure for device in devices if device.failure is not None]
                if failures and not said:
                    said = True
                    logger.warning(
                        "codesign: some GPU telemetry is missing: %s: %s",
                        backend.library,
                        backend.why_not(failures[0]),
                    )
                empty = 0 if got else empty + 1
                if empty >= _GIVE_UP:
                    logger.warning("codesign: no more GPU telemetry: no GPU answers")
                    return
            took = time.monotonic() - began
            # At most half of the time is spent in a slow driver.
            self._stop.wait(max(self._period_s - took, took))
