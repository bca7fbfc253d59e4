"""A capture and a client's results, found, read and analysed: what the commands show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vllm_codesign import settings
from vllm_codesign.accounting import NoSuchTimes, timelines
from vllm_codesign.analysis.finding import finding
from vllm_codesign.analysis.host import Host, host
from vllm_codesign.analysis.kv import KV, Gathered
from vllm_codesign.analysis.kv_waits import GatheredWaits, Waits
from vllm_codesign.analysis.lmcache import Gathered as GatheredLMCache
from vllm_codesign.analysis.lmcache import LMCache
from vllm_codesign.analysis.samples import Samples
from vllm_codesign.analysis.sources import Source
from vllm_codesign.analysis.tables import Tables, build, only
from vllm_codesign.analysis.verdict import Verdict, verdicts
from vllm_codesign.backends.query import Query
from vllm_codesign.model.bench import ArmsRun, BenchRun
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store.capture import RUN_STORES, Capture, RunInfo, latest, resolve
from vllm_codesign.store.reader import Reading, read_steps, read_traces

RESULTS = "results.json"
# Counters of `run.json` that say that something is missing from the capture.
_COUNTED_LOSSES = {
    "requests_lost": "requests were lost whole",
    "rows_not_stored": "rows could not be written to the store",
    "steps_lost": "steps are not known: the records of their beginning were lost",
    "connector_calls_missed": "steps that load or store have no times of it: told too late",
    "steps_not_stored": "steps were left out of the capture: the exporter was behind",
}


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything a report says about one capture."""

    capture: Capture
    origin: str
    """What to call it: the capture's folder, or the back end that was asked."""
    results: Path | None
    run: RunInfo | None
    bench: BenchRun | None
    lossy: tuple[str, ...]
    """Why figures may be wrong; a report begins with them."""
    notes: tuple[str, ...]
    tables: Tables
    finding: str
    verdicts: tuple[Verdict, ...]
    """One for each view, latency first."""
    host: Host | None
    """Of the whole capture, whatever the scenario."""
    kv: KV
    """The same."""
    kv_waits: tuple[Waits, ...]
    """The same."""
    lmcache: LMCache | None
    """The same; None where there is no span of LMCache's."""

    @property
    def clients(self) -> dict[str, int]:
        """How many there were at a time, by scenario, where a client's results say so."""
        return {s.name: s.concurrency for s in self.bench.scenarios} if self.bench else {}


def find(capture: Path | None, results: Path | None = None) -> Capture:
    """The capture that `overview` would read."""
    found_results = results or results_of(capture)
    return _target(capture, load_results(found_results) if found_results else None)


def results_of(capture: Path | None) -> Path | None:
    """The client's results that lie beside `capture`, if any."""
    return _beside(capture) if capture else None


def overview(
    capture: Path | None,
    results: Path | None = None,
    scenario: str | None = None,
    split: Callable[[BenchRun], BenchRun] | None = None,
    source: Source | None = None,
    samples: Samples | None = None,
) -> Overview:
    """Find, read and analyse; `capture` None is the newest one of the configured store.

    `source`, which stands in place of `capture`, may be a back end, and may mean some of its
    requests alone. `split` makes the scenarios of the client's results anew, as
    `batches.by_batch` does. `samples` is filled with each request's figures on the server.

    Raises `CodesignError` where something is missing or not what it should be.
    """
    found_results = results or results_of(capture)
    bench = load_results(found_results) if found_results else None
    if source is None:
        found = _target(capture, bench)
        source = Source(str(found.path), found)
    target = source.capture
    if split is not None:
        if bench is None:
            raise CodesignError(
                "batches are known from the client alone: name its results.json with --results"
            )
        bench = split(bench)
    reading = Reading()
    waits = GatheredWaits()
    try:
        engines = timelines(waits.watch(read_steps(target, reading)))
    except NoSuchTimes as error:
        raise CodesignError(
            f"{source.name}: {error}: it is damaged, or not of vllm-codesign; leave it out with "
            "--since, --until or --trace"
        ) from error
    caches = Gathered()
    lmcache = GatheredLMCache(source.lmcache)
    meant = filter(source.query.means, read_traces(target, reading))
    tables = build(lmcache.watch(caches.watch(meant)), bench, engines, source.remote, samples)
    if not any(s.outcomes for s in tables.scenarios) and not reading.unreadable:
        raise CodesignError(_empty(source))
    if scenario is not None:
        tables = only(tables, scenario)
    run, problem = _run_of(source)
    sampled = host(target, reading)  # before the losses: it may find segments it cannot read
    lossy = (*problem, *_losses(run, tables, reading))
    return Overview(
        capture=target,
        origin=source.name,
        results=found_results,
        run=run,
        bench=bench,
        lossy=lossy,
        notes=(*source.notes, *_notes(run, tables, reading, source)),
        tables=tables,
        finding=finding(tables),
        verdicts=verdicts(tables, bench, run, lossy),
        host=sampled,
        kv=caches.summary(),
        kv_waits=waits.summary(engines),
        lmcache=lmcache.summary(),
    )


def _empty(source: Source) -> str:
    if source.query != Query():
        return f"no request in {source.name} is what was asked for: ask for more"
    return f"no request in {source.name} yet: segments close after 10 s; send requests or wait"


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


def _run_of(source: Source) -> tuple[RunInfo | None, tuple[str, ...]]:
    if source.remote:
        return None, ()
    try:
        return source.capture.load(), ()
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


def _notes(
    run: RunInfo | None, tables: Tables, reading: Reading, source: Source
) -> tuple[str, ...]:
    lines = []
    if run is not None and not run.complete:
        lines.append("the server is still running, or its exporter was killed: more may be missing")
    if run is not None and (starts := run.counters.get("exporter_starts", 1)) > 1:
        lines.append(f"the exporter was started {starts:,} times")
    if reading.rootless_spans:
        lines.append(f"{reading.rootless_spans:,} spans belong to requests that are not here")
    if tables.outlived:
        lines.append(f"{tables.outlived:,} traces of work that outlived its response are left out")
    if tables.differing and source.remote:
        lines.append(
            f"{tables.differing:,} requests are accounted for as they were when they ended: their "
            "steps or spans are not all here, so nothing is said of the device over time"
        )
    elif tables.differing:
        lines.append(
            f"{tables.differing:,} requests are accounted for otherwise than when they ended: "
            "steps that the exporter had are not in this capture"
        )
    return tuple(lines)
