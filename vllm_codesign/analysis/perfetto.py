"""A capture as a Perfetto trace: what ran where and when, on the host's monotonic clock.

The file is written as the capture is read; steps and what torch.profiler saw are kept in
compact columns until all are there. `docs/perfetto.md` lists the tracks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from vllm_codesign.analysis.host_clock import HostClock
from vllm_codesign.analysis.perfetto_processes import Processes
from vllm_codesign.analysis.perfetto_requests import Plan, write_requests
from vllm_codesign.analysis.perfetto_source import PID, Sample, Source, source_of
from vllm_codesign.analysis.perfetto_steps import StepTracks
from vllm_codesign.analysis.perfetto_writer import Rows, TraceWriter, lines
from vllm_codesign.analysis.slices import Slices
from vllm_codesign.analysis.torch_profile import Profile, read_profile
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store.capture import Capture, RunInfo
from vllm_codesign.store.reader import Reading

_OF_ANOTHER_RUN_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Written:
    """What went into the file."""

    requests: int
    left_out: int
    """Requests that do not say when they began by the host's clock: of an older version."""
    steps: int
    slices: int
    samples: int
    lossy: tuple[str, ...] = ()
    """What is missing from the capture, one line each."""


def export(capture: Capture, out: Path, profiles: Sequence[Path] = ()) -> Written:
    """Write `capture` to `out`, whole or not at all, with the kernels of `profiles`.

    Raises `CodesignError` where something cannot be read, written or placed in time.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    read = [read_profile(path) for path in profiles]
    run = capture.load() if capture.run_file.exists() else None
    met = Reading()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            written = write(file, source_of(capture, run, met), read)
        temporary.replace(out)
    except OSError as error:
        raise CodesignError(f"cannot write {out}: {error.strerror}") from error
    finally:
        with suppress(OSError):  # it was renamed, or never there
            temporary.unlink()
    return replace(written, lossy=_losses(run, met))


def _losses(run: RunInfo | None, met: Reading) -> tuple[str, ...]:
    lost = sum(run.drops.values()) if run is not None else 0
    said = [f"{lost:,} records were lost"] if lost else []
    # Each of the readings has met the same segments.
    return (*said, *dict.fromkeys(met.unreadable))


def write(file: IO[bytes], source: Source, profiles: Sequence[Profile] = ()) -> Written:
    """Write the trace into `file`."""
    plan = Plan()
    for trace in source.requests():
        plan.take(trace)
    if plan.reading is None:
        raise CodesignError(
            "no request here says when it began by the host's clock: the capture is empty, or "
            "an older version wrote it; record it anew"
        )
    plan.pack()
    clock = HostClock(source.readings or (plan.reading,))
    _check(profiles, clock, plan.window)
    writer = TraceWriter(file)
    writer.clocks(clock.readings)
    processes = Processes(writer, source.pids, source.ranks)
    steps = StepTracks(writer, plan.engines.keys())
    for step in source.steps:
        steps.take(step)
    write_requests(writer, processes, source.requests(), plan, steps)
    steps.write(processes.engine, processes.worker, processes.tracks)
    for profile in profiles:
        _profile(writer, processes, profile, clock)
    _counters(writer, processes, source.samples, clock)
    return Written(len(plan.spans), plan.left_out, len(steps), writer.slices, writer.samples)


def _check(profiles: Sequence[Profile], clock: HostClock, window: tuple[int, int]) -> None:
    for profile in profiles:
        start, end = map(clock.to_monotonic, profile.window)
        away = max(start - window[1], window[0] - end)
        if away > _OF_ANOTHER_RUN_NS:
            raise CodesignError(
                f"{profile.path} lies {away / 1e9:,.0f} s away from the requests of this "
                "capture: name the profile of the same run on the same host"
            )


_LINES = {"device": "stream", "annotations": "annotations of stream", "host": "thread"}


def _profile(writer: TraceWriter, processes: Processes, profile: Profile, clock: HostClock) -> None:
    rank = f" rank {profile.rank}" if profile.rank is not None else ""
    pid = processes.unknown(f"torch.profiler{rank} ({profile.path.name})")
    devices = {line[1] for line in profile.lines if line[0] != "host"}
    for number, (line, slices) in enumerate(sorted(profile.lines.items(), key=_by_line)):
        kind, device, thread = line
        where = f"device {device} " if kind != "host" and len(devices) > 1 else ""
        name = f"{where}{_LINES[kind]} {thread}"
        rows = Rows(writer, lines(writer, processes.tracks[pid], name, 100 * number))
        for piece in slices:
            rows.add(clock.to_monotonic(piece.start), clock.to_monotonic(piece.end), piece.name, {})
        rows.finish()


def _by_line(item: tuple[tuple[str, int | str, int | str], Slices]) -> tuple[bool, str, str]:
    (kind, device, thread), _ = item
    return kind == "host", f"{device!s:>12}", f"{thread!s:>12}"


def _counters(
    writer: TraceWriter, processes: Processes, samples: Iterable[Sample], clock: HostClock
) -> None:
    """One counter for each name and set of attributes; a known process's stand under it."""
    tracks: dict[tuple[object, ...], int] = {}
    for at, name, unit, value, attributes in samples:
        key = (name, unit, *sorted(attributes.items()))
        track = tracks.get(key)
        if track is None:
            track = tracks[key] = _counter(writer, processes, name, unit, attributes)
        writer.sample(track, clock.to_monotonic(at), float(value))


def _counter(
    writer: TraceWriter,
    processes: Processes,
    name: str,
    unit: str,
    attributes: Mapping[str, str],
) -> int:
    pid = attributes.get(PID, "")
    parent = processes.tracks.get(int(pid), 0) if str(pid).isdigit() else 0
    told = {k: v for k, v in sorted(attributes.items()) if not (parent and k == PID)}
    listed = ", ".join(f"{key}={value}" for key, value in told.items())
    return writer.counter(parent, f"{name} ({listed})" if listed else name, unit)
