"""What a Prometheus answered to the dashboards' queries in one run: the file, read and written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vllm_codesign.model.errors import CodesignError

FILE = Path(__file__).with_name("recording.json")
COMMAND = "python -m docs.pictures.record"

Values = Sequence[float | None]
"""One for each instant of the recording, `None` where there was none or it was no number."""


@dataclass(frozen=True)
class Series:
    """One series of an answer. An instant query has one value."""

    labels: Mapping[str, str]
    values: Values


@dataclass(frozen=True)
class Recording:
    """Answers by the query as the dashboard has it, its variables not filled in."""

    about: str
    """Which run it was, in a line."""
    load: str
    """What was sent when, in a line."""
    started: str
    """When, in UTC, to the minute."""
    step_s: float
    instants: int
    rate_s: float
    """What `$__rate_interval` was."""
    answers: Mapping[str, Sequence[Series]]
    exemplars: Mapping[str, Sequence[tuple[float, float]]]
    """Seconds since the first instant, and the value."""
    no_data: Mapping[str, str]
    """Why a query whose answer is empty has none in such a run."""

    @property
    def span_s(self) -> float:
        """From the first instant to the last."""
        return self.step_s * (self.instants - 1)

    def why_empty(self, query: str) -> str:
        """The reason why there is nothing to draw for a query."""
        if query in self.no_data:
            return self.no_data[query]
        if query not in self.answers:
            return f"not asked in the recorded run; {COMMAND} records it"
        return "no value in this run"


def text(recording: Recording) -> str:
    """The file's content: JSON, one line a series."""
    head = {
        "about": recording.about,
        "load": recording.load,
        "started": recording.started,
        "step_s": recording.step_s,
        "instants": recording.instants,
        "rate_s": recording.rate_s,
    }
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    answers = ",\n".join(
        f"{json.dumps(query)}: [{','.join(_lines(found))}]"
        for query, found in recording.answers.items()
    )
    parts.append(f'"answers": {{\n{answers}\n}}')
    exemplars = ",\n".join(
        f"{json.dumps(query)}: {_compact([list(each) for each in found])}"
        for query, found in recording.exemplars.items()
    )
    parts.append(f'"exemplars": {{\n{exemplars}\n}}')
    parts.append(f'"no_data": {json.dumps(dict(recording.no_data), indent=0)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(found: Sequence[Series]) -> Iterator[str]:
    for series in found:
        yield f"\n[{_compact(dict(series.labels))},{_compact(list(series.values))}]"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


@cache
def load(file: Path = FILE) -> Recording:
    """Raises CodesignError where there is none, or one that is not whole."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        recording = Recording(
            about=str(found["about"]),
            load=str(found["load"]),
            started=str(found["started"]),
            step_s=float(found["step_s"]),
            instants=int(found["instants"]),
            rate_s=float(found["rate_s"]),
            answers={
                query: tuple(Series(labels, tuple(values)) for labels, values in series)
                for query, series in found["answers"].items()
            },
            exemplars={
                query: tuple((float(at), float(value)) for at, value in each)
                for query, each in found["exemplars"].items()
            },
            no_data=dict(found["no_data"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CodesignError(
            f"{file}: no recording ({type(error).__name__}: {error}); write it with {COMMAND}"
        ) from error
    for query, series in recording.answers.items():
        lengths = {len(each.values) for each in series} - {1, recording.instants}
        if lengths:
            raise CodesignError(
                f"{file}: a series of {query} has {lengths.pop()} values, not "
                f"{recording.instants}; write it anew with {COMMAND}"
            )
    return recording
