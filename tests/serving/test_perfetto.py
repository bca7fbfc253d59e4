"""A real run's Perfetto export, read back with Perfetto's own classes: nothing is missing or moved.

What is expected is derived here from the capture's rows a second time, not by the exporter's code.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.perfetto_reading import Drawn, Read
from tests.support.mixed_load import Sent
from tests.support.serving import Serving, Traces
from vllm_codesign import semconv as S
from vllm_codesign.analysis import perfetto
from vllm_codesign.analysis.host_clock import HostClock
from vllm_codesign.analysis.perfetto import Written
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace, Span
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.reader import connect, read_steps, read_traces

pytestmark = pytest.mark.vllm

Piece = tuple[str, int, int]
"""Name, start and end on the host's clock."""


@dataclass(frozen=True)
class Exported:
    """A still copy of the capture, and what its export says."""

    capture: Capture
    requests: list[RequestTrace]
    steps: list[Step]
    read: Read
    written: Written

    def slices(self, track: str) -> list[Drawn]:
        """Those whose own track, whatever its row, begins so."""
        return [s for s in self.read.slices if s.track[-1].startswith(track)]


@pytest.fixture(scope="module")
def exported(
    serving: Serving,
    mixed: tuple[list[Sent], Traces],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    folder = tmp_path_factory.mktemp("perfetto")
    # The server goes on writing: segments are closed, so a copy of them is a whole capture.
    capture = Capture(folder / "copy")
    shutil.copytree(
        serving.capture.path, capture.path, ignore=shutil.ignore_patterns(".*", "records")
    )
    out = folder / "run.pftrace"
    written = perfetto.export(capture, out)
    return Exported(
        capture,
        list(read_traces(capture)),
        list(read_steps(capture)),
        Read(out.read_bytes()),
        written,
    )


def shift(trace: RequestTrace) -> int:
    begun = trace.root.attributes[S.MONOTONIC.key]
    assert isinstance(begun, int)
    return begun - trace.root.start_ns


def piece(span: Span, by: int) -> Piece:
    return span.name, span.start_ns + by, span.end_ns + by


def request_ids(trace: RequestTrace) -> Iterator[str]:
    """Its engine requests."""
    yield from {
        str(span.attributes[S.REQUEST_ID.key])
        for span in trace.spans
        if S.REQUEST_ID.key in span.attributes
    }


def test_the_run_is_not_an_empty_one(exported: Exported, mixed: tuple[list[Sent], Traces]) -> None:
    sent, _ = mixed
    assert exported.written.requests == len(exported.requests) >= len(sent) / 2
    assert exported.written.steps == len(exported.steps) > 100
    assert (exported.written.left_out, exported.written.lossy) == (0, ())


def test_every_span_of_every_request_is_a_slice(exported: Exported) -> None:
    wanted = Counter(piece(s, shift(t)) for t in exported.requests for s in t.spans)
    found = Counter((s.name, *s.time) for s in exported.slices("requests "))
    assert found == wanted


def test_their_attributes_are_its_arguments(exported: Exported) -> None:
    roots = {}
    for drawn in exported.slices("requests "):
        if "trace_id" in drawn.notes:
            roots[drawn.notes["trace_id"], drawn.start] = drawn.notes
    for trace in exported.requests:
        wanted: dict[str, Any] = {
            key: value if not isinstance(value, tuple) else ", ".join(map(str, value))
            for key, value in trace.root.attributes.items()
            if not isinstance(value, tuple) or isinstance(value[0], str)
        }
        wanted["trace_id"] = f"{trace.trace_id:032x}"
        assert roots[wanted["trace_id"], trace.root.start_ns + shift(trace)] == wanted


def test_every_event_is_an_instant(exported: Exported) -> None:
    wanted = Counter(
        (event.name, event.time_ns + shift(t))
        for t in exported.requests
        for span in t.spans
        for event in span.events
    )
    found = Counter(
        (name, at) for track, name, at in exported.read.instants if track[-1] != "KV evictions"
    )
    assert found == wanted


def test_every_step_is_on_its_tracks(exported: Exported) -> None:
    engine: Counter[tuple[str, int, int, int]] = Counter()
    host: Counter[tuple[str, int, int, int]] = Counter()
    device: Counter[tuple[str, int, int, int]] = Counter()
    for step in exported.steps:
        engine["schedule", *step.schedule, step.number] += 1
        if step.allocate is not None:
            engine[S.STEP_ALLOCATE.name, *step.allocate, step.number] += 1
        if step.update is not None:
            engine["update", *step.update, step.number] += 1
            if step.waited_ns:
                begun = step.update[0] - step.waited_ns
                engine["waiting", begun, step.update[0], step.number] += 1
        for rank in step.ranks:
            if rank.execute is not None:
                until = rank.forward[0] if rank.forward is not None else rank.execute[1]
                host["worker.prepare", rank.execute[0], until, step.number] += 1
            if rank.forward is not None:
                host["worker.forward", *rank.forward, step.number] += 1
            if rank.sample is not None:
                host["worker.sample", *rank.sample, step.number] += 1
            for interval in rank.device:
                stretch = interval.start_ns, interval.end_ns
                device[interval.work, *stretch, step.number] += 1
                alone = rank.forward_device
                if interval.work == "model" and alone not in (None, stretch):
                    assert alone is not None
                    device["forward", *alone, step.number] += 1
    for track, wanted in (
        ("EngineCore main", engine),
        ("host rank", host),
        ("device rank", device),
    ):
        found = Counter((s.name, *s.time, s.notes["step"]) for s in exported.slices(track))
        assert found == wanted, track
        assert found, track


def test_the_input_thread_is_what_dispatch_says(exported: Exported) -> None:
    wanted: Counter[tuple[str, int, int]] = Counter()
    ran = {
        request
        for trace in exported.requests
        for span in trace.spans
        if isinstance(span.attributes.get(S.ENGINE_PID.key), int)
        for request in [str(span.attributes.get(S.REQUEST_ID.key, ""))]
    }
    for trace in exported.requests:
        for span in trace.named(S.ENGINE_DISPATCH.name):
            took = span.attributes.get(S.DISPATCH_PREPROCESS.key)
            queued = span.attributes.get(S.DISPATCH_INPUT_QUEUE.key)
            request = str(span.attributes[S.REQUEST_ID.key])
            if isinstance(took, int) and isinstance(queued, int) and request in ran:
                end = span.end_ns + shift(trace) - queued
                wanted[request, end - took, end] += 1
    found = Counter((s.notes[S.REQUEST_ID.key], *s.time) for s in exported.slices("input thread"))
    assert found == wanted
    assert found


def test_every_arrow_leads_where_the_steps_say(exported: Exported) -> None:
    known = {request for trace in exported.requests for request in request_ids(trace)}
    wanted: dict[str, set[int]] = {}
    decoded: dict[str, list[int]] = {}
    for step in exported.steps:
        for member in step.members or ():
            if member.request_id not in known:
                continue
            wanted.setdefault(member.request_id, set())
            if member.phase == "prefill":
                wanted[member.request_id].add(step.number)
            else:
                decoded.setdefault(member.request_id, []).append(step.number)
    for request, numbers in decoded.items():
        wanted[request] |= {min(numbers), max(numbers)}
    # A flow belongs to the request whose prefill or decode it starts from.
    owner: dict[int, str] = {}
    for drawn in exported.slices("requests "):
        if drawn.flows:
            (flow,) = drawn.flows
            assert drawn.name in (S.PREFILL.name, S.DECODE.name)
            assert (
                owner.setdefault(flow, drawn.notes[S.REQUEST_ID.key])
                == (drawn.notes[S.REQUEST_ID.key])
            )
    reached: dict[str, set[int]] = {}
    stray = set()
    for drawn in exported.read.slices:
        if drawn.track[-1].startswith("requests "):
            continue
        for flow in drawn.flows:
            if flow in owner:
                reached.setdefault(owner[flow], set()).add(drawn.notes["step"])
            else:
                stray.add(flow)
    assert len(owner) == len(set(owner.values())), "a request has one flow"
    begun = set(owner.values())
    assert reached == {request: steps for request, steps in wanted.items() if request in begun}
    assert len(stray) == len(wanted) - len(begun), "of requests that had no prefill span"
    assert reached


def test_every_sample_is_on_a_counter(exported: Exported) -> None:
    wanted: dict[tuple[str, str], list[tuple[int, float]]] = {}
    readings = [(a.monotonic_ns, a.unix_ns) for a in exported.capture.load().anchors]
    clock = HostClock(readings)
    with connect(exported.capture) as connection:
        rows = connection.execute(
            "SELECT epoch_ns(time_ns), name, value, attributes FROM series"
        ).fetchall()
    for at, name, value, attributes in rows:
        told = ", ".join(f"{k}={v}" for k, v in sorted(attributes.items()) if k != "process.pid")
        key = f"{name} ({told})" if told else name, str(attributes.get("process.pid", ""))
        wanted.setdefault(key, []).append((clock.to_monotonic(at), value))
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    steps = {"requests running", "requests waiting", "tokens per step"}
    for track, values in exported.read.counters.items():
        if track[-1] not in steps:
            pid = str(exported.read.pid(track[0])) if len(track) > 1 else ""
            found[unlisted(track[-1], pid)] = sorted(values)
    assert found == {key: sorted(values) for key, values in wanted.items()}
    assert sum(map(len, found.values())) + 3 * len(exported.steps) == exported.written.samples


def unlisted(name: str, pid: str) -> tuple[str, str]:
    """A counter's name without the process, which a known process's counter stands under."""
    base, _, rest = name.partition(" (")
    told = [each for each in rest.removesuffix(")").split(", ") if each]
    mine = [each for each in told if each.startswith("process.pid=")]
    left = ", ".join(each for each in told if each not in mine)
    return f"{base} ({left})" if left else base, mine[0].partition("=")[2] if mine else pid


def test_the_engines_counters_are_the_steps(exported: Exported) -> None:
    for name, of in (
        ("requests running", "running"),
        ("requests waiting", "waiting"),
        ("tokens per step", "tokens"),
    ):
        (values,) = [v for track, v in exported.read.counters.items() if track[-1] == name]
        assert sorted(values) == sorted(
            (step.schedule[1], getattr(step, of)) for step in exported.steps
        ), name


def test_the_clock_is_the_captures(exported: Exported) -> None:
    anchors = exported.capture.load().anchors
    assert exported.read.clocks == [{3: a.monotonic_ns, 1: a.unix_ns} for a in anchors]
    assert Path(exported.capture.run_file).exists()
