"""A capture and a client's results, found, read and analysed: what the commands show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vllm_codesign import settings
from vllm_codesign.accounting import timelines
from vllm_codesign.analysis.finding import finding
from vllm_codesign.analysis.host import Host, host
from vllm_codesign.analysis.kv import KV, Gathered
from vllm_codesign.analysis.kv_waits import GatheredWaits, Waits
from vllm_codesign.analysis.tables import Tables, build, only
from vllm_codesign.model.bench import ArmsRun, BenchRun
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.step import Step
from vllm_codesign.store.capture import RUN_STORES, Capture, RunInfo, latest, resolve
from vllm_codesign.store.reader import Reading, read_steps, read_traces

RESULTS = "results.json"
# Counters of `run.json` that say that something is missing from the capture.
_COUNTED_LOSSES = {
    "requests_lost": "requests were lost whole",
    "rows_not_stored": "rows could not be written to the store",
    "steps_lost": "steps are not known: the records of their beginning were lost",
    "steps_not_stored": "steps were left out of the capture: the exporter was behind",
}


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything a report says about one capture."""

    capture: Capture
    results: Path | None
    run: RunInfo | None
    bench: BenchRun | None
    lossy: tuple[str, ...]
    """Why figures may be wrong; a report begins with them."""
    notes: tuple[str, ...]
    tables: Tables
    finding: str
    steps: dict[int, tuple[Step, ...]]
    """The steps that served the slowest requests, by the span id of the request's root."""
    host: Host | None
    """Of the whole capture, whatever the scenario."""
    kv: KV
    """The same."""
    kv_waits: tuple[Waits, ...]
    """The same."""


def find(capture: Path | None, results: Path | None = None) -> Capture:
    """The capture that `overview` would read."""
    found_results = results or (_beside(capture) if capture else None)
    return _target(capture, load_results(found_results) if found_results else None)


def overview(
    capture: Path | None,
    results: Path | None = None,
    scenario: str | None = None,
    with_steps: bool = False,
    split: Callable[[BenchRun], BenchRun] | None = None,
) -> Overview:
    """Find, read and analyse; `capture` None is the newest one of the configured store.

    `with_steps` reads the steps of the slowest requests as well. `split` makes the scenarios
    of the client's results anew, as `batches.by_batch` does.

    Raises `CodesignError` where something is missing or not what it should be.
    """
    found_results = results or (_beside(capture) if capture else None)
    bench = load_results(found_results) if found_results else None
    target = _target(capture, bench)
    if split is not None:
        if bench is None:
            raise CodesignError(
                "batches are known from the client alone: name its results.json with --results"
            )
        bench = split(bench)
    reading = Reading()
    waits = GatheredWaits()
    engines = timelines(waits.watch(read_steps(target, reading)))
    caches = Gathered()
    tables = build(caches.watch(read_traces(target, reading)), bench, engines)
    if not any(s.outcomes for s in tables.scenarios) and not reading.unreadable:
        raise CodesignError(
            f"no request in {target.path} yet: segments close after 10 s; send requests or wait"
        )
    if scenario is not None:
        tables = only(tables, scenario)
    run, problem = _run_of(target)
    sampled = host(target, reading)  # before the losses: it may find segments it cannot read
    return Overview(
        capture=target,
        results=found_results,
        run=run,
        bench=bench,
        lossy=(*problem, *_losses(run, tables, reading)),
        notes=_notes(run, tables, reading),
        tables=tables,
        finding=finding(tables),
        steps=_steps_of(target, tables) if with_steps else {},
        host=sampled,
        kv=caches.summary(),
        kv_waits=waits.summary(engines),
    )


def _steps_of(capture: Capture, tables: Tables) -> dict[int, tuple[Step, ...]]:
    wanted = {t.root.span_id for scenario in tables.scenarios for t in scenario.slowest}
    found: dict[int, list[Step]] = {}
    for step in read_steps(capture, of=wanted):
        for span_id in {member.span_id for member in step.members or ()} & wanted:
            found.setdefault(span_id, []).append(step)
    return {
        span_id: tuple(sorted(steps, key=lambda step: step.schedule))
        for span_id, steps in found.items()
    }


def _target(capture: Path | None, bench: BenchRun | None) -> Capture:
    """What is asked for; of several captures in that folder the one the results name."""
    named = Path(bench.capture) if bench is not None and bench.capture is not None else None
    if capture is None:
        return resolve(named) if named is not None else _newest()
    if named is not None and named.is_dir() and capture.resolve() in named.resolve().parents:
        return resolve(named)
    return resolve(capture)


def _newest() -> Capture:
    store = settings.load()[0].store
    if store is None:
        raise CodesignError("CODESIGN_STORE is empty: name the folder of a capture")
    return latest(store)


def _beside(path: Path) -> Path | None:
    """`results.json` of a demo folder, named itself or by the capture inside it."""
    folders = [path, path.parent]
    if path.parent.name in RUN_STORES:
        folders.append(path.parent.parent)
    return next((folder / RESULTS for folder in folders if (folder / RESULTS).is_file()), None)


def arms_of(path: Path) -> tuple[ArmsRun, Path] | None:
    """The run with arms that `path`, its folder or its file, holds, and the folder; else None."""
    file = path / RESULTS if path.is_dir() else path
    if file.name != RESULTS or not file.is_file():
        return None
    try:
        found = _arms(file.read_bytes())
    except OSError as error:
        raise CodesignError(f"cannot read {file}: {error.strerror}") from error
    return (found, file.parent) if found is not None else None


def load_results(path: Path) -> BenchRun:
    """`results.json`, checked."""
    path = path / RESULTS if path.is_dir() else path
    try:
        content = path.read_bytes()
        if (arms := _arms(content)) is not None:
            raise CodesignError(
                f"{path} names the servers of several arms: name one of them"
                + (f", as {path.parent / arms.servers[0].folder}" if arms.servers else "")
            )
        return BenchRun.model_validate_json(content)
    except OSError as error:
        raise CodesignError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CodesignError(
            f"{path} is not what `codesign bench` of this version writes: {where}: {first['msg']}"
        ) from error


def _arms(content: bytes) -> ArmsRun | None:
    try:
        return ArmsRun.model_validate_json(content)
    except ValidationError:
        return None


def _run_of(capture: Capture) -> tuple[RunInfo | None, tuple[str, ...]]:
    try:
        return capture.load(), ()
    except CodesignError as error:
        return None, (f"losses are not known: {error}",)


def _losses(run: RunInfo | None, tables: Tables, reading: Reading) -> list[str]:
    lines = []
    counters = run.counters if run is not None else {}
    if run is not None and (dropped := sum(run.drops.values())):
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in run.drops.items() if count)
        lines.append(f"{dropped:,} records were lost ({kinds})")
    for key, what in _COUNTED_LOSSES.items():
        if counters.get(key):
            lines.append(f"{counters[key]:,} {what}")
    if tables.lossy_requests:
        lines.append(f"{tables.lossy_requests:,} requests ran while records were lost")
    if run is not None and run.removed.segments:
        megabytes = run.removed.bytes / 1e6
        lines.append(
            f"{run.removed.segments:,} segments ({megabytes:,.1f} MB) were removed to keep "
            "the store within its caps"
        )
    lines.extend(reading.unreadable)
    return lines


def _notes(run: RunInfo | None, tables: Tables, reading: Reading) -> tuple[str, ...]:
    lines = []
    if run is not None and not run.complete:
        lines.append("the server is still running, or its exporter was killed: more may be missing")
    if run is not None and (starts := run.counters.get("exporter_starts", 1)) > 1:
        lines.append(f"the exporter was started {starts:,} times")
    if reading.rootless_spans:
        lines.append(f"{reading.rootless_spans:,} spans belong to requests that are not here")
    if tables.outlived:
        lines.append(f"{tables.outlived:,} traces of work that outlived its response are left out")
    if tables.differing:
        lines.append(
            f"{tables.differing:,} requests are accounted for otherwise than when they ended: "
            "steps that the exporter had are not in this capture"
        )
    return tuple(lines)
