"""A real vLLM server with the plugin, for tests, and what can be asked of its capture."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.exported import Exported, read_exported
from tests.support.otlp_receiver import free_port
from vllm_codesign.bench.server import VllmServer
from vllm_codesign.bench.tiny_model import make
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.recorder.session import Session, sessions
from vllm_codesign.store import capture as captures
from vllm_codesign.store.reader import read_traces

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / ".cache" / "models" / "tiny"
SHM = Path("/dev/shm")
SEGMENT_S = 20.0
"""An open segment closes after 10 s; a request is complete at most 2 s after its end."""

FLAGS = ("--enforce-eager", "--max-model-len", "8192")


def tiny_model() -> Path:
    """The small model, made on first use."""
    make(MODEL)
    return MODEL


@dataclass
class Serving:
    """A running server and the store that its capture goes to."""

    server: VllmServer
    store: Path
    model: str
    requests: list[str] = field(default_factory=list)
    metrics_port: int = 0
    """Where the exporter serves `/metrics`."""

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def capture(self) -> captures.Capture:
        return captures.latest(self.store)

    @property
    def session(self) -> Session:
        """The live session of this server."""
        found = [s for s in sessions(SHM) if s.owner[0] == self.server.pid]
        assert len(found) == 1, f"sessions of {self.server.pid}: {found}"
        return found[0]

    def traces(self, wanted: Sequence[str], timeout_s: float = 2 * SEGMENT_S) -> Traces:
        """All traces so far, once those of `wanted` (hex ids) are stored."""
        return wait_for_traces(lambda: self.capture, wanted, timeout_s)

    def exported(self) -> Exported:
        """What the exporter's own `/metrics` says now."""
        return read_exported(f"http://127.0.0.1:{self.metrics_port}/metrics")

    def metrics(self) -> dict[str, float]:
        """vLLM's own counters: `name` to the sum over all label sets."""
        return scrape(self.url)


@dataclass
class Traces:
    """What a capture holds."""

    all: list[RequestTrace]
    by_id: dict[str, list[RequestTrace]]

    def one(self, trace_id: str) -> RequestTrace:
        found = self.by_id.get(trace_id, [])
        assert len(found) == 1, f"{len(found)} traces {trace_id}"
        return found[0]

    def linked_to(self, trace: RequestTrace) -> list[RequestTrace]:
        return [
            other
            for other in self.all
            for link in other.root.links
            if (link.trace_id, link.span_id) == (trace.root.trace_id, trace.root.span_id)
        ]


def wait_for_traces(
    capture: Callable[[], captures.Capture], wanted: Sequence[str], timeout_s: float
) -> Traces:
    deadline = time.monotonic() + timeout_s
    while True:
        traces = read_all(capture())
        missing = [trace_id for trace_id in wanted if trace_id not in traces.by_id]
        if not missing or time.monotonic() > deadline:
            assert not missing, f"{len(missing)} of {len(wanted)} traces missing: {missing[:5]}"
            return traces
        time.sleep(1.0)


def read_all(capture: captures.Capture) -> Traces:
    found = list(read_traces(capture))
    by_id: dict[str, list[RequestTrace]] = {}
    for trace in found:
        by_id.setdefault(f"{trace.trace_id:032x}", []).append(trace)
    return Traces(found, by_id)


def scrape(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        text = response.read().decode()
    totals: dict[str, float] = {}
    for name, value in re.findall(r"^(vllm:\w+)(?:\{[^}]*\})? (\S+)$", text, re.M):
        totals[name] = totals.get(name, 0.0) + float(value)
    return totals


@contextmanager
def serve(
    folder: Path,
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    python: str | Path = sys.executable,
) -> Iterator[Serving]:
    """Start a server with the plugin; its store and log lie in `folder`."""
    store = folder / "store"
    metrics_port = free_port()
    environment = {
        "VLLM_PLUGINS": "codesign",
        "CODESIGN_METRICS_PORT": str(metrics_port),
        "CODESIGN_STORE": str(store),
        "CODESIGN_KEEP_RECORDS": "1",
        **(env or {}),
    }
    model = str(tiny_model())
    with VllmServer(
        model,
        flags=[*FLAGS, *flags],
        env=environment,
        python=python,
        log_path=folder / "server.log",
    ) as server:
        yield Serving(server, store, model, metrics_port=metrics_port)


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Seconds until `condition` held; fails after `timeout_s`."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - start


def wait_until_closed(session: Session) -> None:
    """Until no request is open in the exporter, nor waits in a segment that is."""
    wait_until(lambda: session.open_requests == 0, SEGMENT_S, "open requests in the exporter")


def processes_under(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    children: dict[int, list[int]] = {}
    for line in subprocess.check_output(["ps", "-eo", "pid=,ppid="], text=True).splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, todo = [], [pid]
    while todo:
        current = todo.pop()
        found.append(current)
        todo += children.get(current, [])
    return found
