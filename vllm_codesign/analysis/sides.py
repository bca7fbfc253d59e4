"""A and B of a comparison: which servers they are, read with every request's figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_codesign.analysis.overview import (
    RESULTS,
    Overview,
    arms_of,
    load_results,
    overview,
    results_of,
)
from vllm_codesign.analysis.samples import Samples
from vllm_codesign.analysis.tables import NO_CLIENT
from vllm_codesign.model.bench import BenchRun, Scenario
from vllm_codesign.model.errors import CodesignError


@dataclass(frozen=True, slots=True)
class Server:
    """One server: what its clients saw, what it says itself, or both."""

    path: Path
    bench: BenchRun | None
    view: Overview | None
    samples: Samples
    unread: str | None = None
    """Why there is no `view`."""

    @property
    def identity(self) -> Path:
        """The same for the same server, however it was named."""
        if self.view is not None:
            return self.view.capture.path.resolve()
        return (self.path.parent if self.path.name == RESULTS else self.path).resolve()

    def stepwise(self, scenario: str) -> bool | None:
        """Whether the engine's steps were recorded; None where nothing was accounted for."""
        for found in self.view.tables.scenarios if self.view is not None else ():
            if found.name == scenario and found.accounts is not None:
                return found.accounts.stepwise
        return None


@dataclass(frozen=True, slots=True)
class Side:
    """One or more servers of the same kind, compared as one."""

    name: str
    """As the user wrote it."""
    servers: tuple[Server, ...]

    @property
    def runs(self) -> list[BenchRun]:
        return [server.bench for server in self.servers if server.bench is not None]

    def scenarios(self) -> dict[str, Scenario | None]:
        """Those that have a completed request, by name; None where no client says what it was."""
        said = {s.name: s for run in self.runs for s in run.scenarios}
        found = dict.fromkeys(name for each in self.servers for name in each.samples.values)
        ordered = [name for name in said if name in found]
        ordered += [name for name in found if name not in said]
        return {name: said.get(name) for name in ordered}

    def bottleneck(self, scenario: str) -> tuple[str, int] | None:
        """The largest avoidable part of most requests, and of how many."""
        counted: Counter[str] = Counter()
        for server in self.servers:
            counted.update(server.samples.bottlenecks.get(scenario, {}))
        return counted.most_common(1)[0] if counted else None

    def errors(self, scenario: str) -> Counter[str]:
        """Requests that failed, by reason; they are in no figure."""
        return Counter(
            row.error or f"HTTP {row.http_status}"
            for run in self.runs
            for row in run.requests
            if row.scenario == scenario and row.status == "error"
        )


def side(path: Path, scenario: str | None = None) -> Side:
    """What `path` means: a capture or a store, a results.json or its folder, or an arm's folder.

    Raises `CodesignError` where it is none of them, or is several that do not belong together.
    """
    folders = list(_servers_of(path))
    return Side(str(path), tuple(_server(folder, scenario) for folder in folders))


def server_of(view: Overview, samples: Samples, scenario: str | None = None) -> Server:
    """Of an overview that filled `samples`; those of its clients are added."""
    if view.bench is not None:
        samples.take_client(view.bench)
    path = view.capture.path
    return Server(path, view.bench, view, _only(samples, scenario, path))


def _servers_of(path: Path) -> Iterator[Path]:
    arms = arms_of(path)
    if arms is not None:
        run, folder = arms
        if len(run.arms) > 1:
            named = ", ".join(str(folder / arm) for arm in run.arms)
            raise CodesignError(f"{path} has several arms: name one for each side, of {named}")
        path = folder / run.arms[0]
    if not path.is_dir() or (path / RESULTS).is_file():
        yield path
        return
    above = arms_of(path.parent)
    if above is not None and path.name in above[0].arms:
        run, folder = above
        # Not what lies there: a repeat that was interrupted is not listed.
        found = [folder / each.folder for each in run.servers if each.arm == path.name]
        if not found:
            raise CodesignError(f"{path} has no finished server: the same bench command goes on")
        yield from found
        return
    numbered = [each for each in path.iterdir() if each.name.isdigit()]
    repeats = [each for each in numbered if (each / RESULTS).is_file()]
    yield from sorted(repeats, key=lambda each: int(each.name)) or [path]


def _server(path: Path, scenario: str | None) -> Server:
    results = path if path.is_file() else results_of(path)
    samples = Samples()
    if results is None:
        view = overview(path, samples=samples)
        return Server(path, None, view, _only(samples, scenario, path))
    bench = load_results(results)
    samples.take_client(bench)
    # Who names the run means the capture that it noted; who names a capture means that one.
    of_run = path.is_file() or (path / RESULTS).is_file()
    try:
        noted = Path(bench.capture) if of_run and bench.capture is not None else None
        # The folder may have been moved; then its capture lies in it, as far as it did before.
        capture = noted if noted is not None and noted.is_dir() else results.parent
        view = overview(capture if of_run else path, results, samples=samples)
    except CodesignError as error:
        if not of_run:
            raise
        return Server(path, bench, None, _only(samples, scenario, path), str(error))
    return Server(path, bench, view, _only(samples, scenario, path))


def _only(samples: Samples, scenario: str | None, path: Path) -> Samples:
    """Requests of the client's scenarios, or of the one that is asked for."""
    if scenario is not None:
        wanted = {scenario}
        if scenario not in samples.values:
            names = ", ".join(samples.values)
            raise CodesignError(f"no scenario {scenario!r} in {path}; there is: {names}")
    else:
        wanted = set(samples.values)
        if len(wanted) > 1:  # beside a client's scenarios, requests of others are warm-up
            wanted.discard(NO_CLIENT)
    samples.values = {name: each for name, each in samples.values.items() if name in wanted}
    return samples
