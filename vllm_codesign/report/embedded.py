"""The requests inside a report that opens from disk: all of them, or a sample that says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm_codesign.analysis.overview import Overview
from vllm_codesign.analysis.tables import NO_CLIENT
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.report import colours
from vllm_codesign.report.documents import Document, Documents
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.index import Entry, Index
from vllm_codesign.store.reader import Reading, read_steps, read_traces

MAX_REQUESTS = 1_000
SLOWEST = 50
"""Of each scenario, in a sample."""
ENDED_OTHERWISE = 200
"""Rejected, aborted and failed ones, in a sample."""
STEPPED = 10
"""Of each scenario: so many of the slowest come with the engine's steps."""
MAX_BYTES = 5_000_000
"""Of the data in one page, so that it stays below 6 MB; requests with thousands of spans make
the sample smaller."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What the page's script gets, and what the page says about it."""

    data: dict[str, Any]
    shown: int
    total: int
    stepped: int


def embedded(view: Overview, scenario: str | None = None) -> Embedded:
    """The requests of `view`'s capture; of one scenario alone where that is asked."""
    only = None if scenario is None else "" if scenario == NO_CLIENT else scenario
    index = Index(view.capture, scenarios_of(view))
    try:
        index.refresh()
        found = index.sample(MAX_REQUESTS, SLOWEST, ENDED_OTHERWISE, only)
    finally:
        index.close()
    chosen = found.entries
    stepped = _slowest(chosen)
    steps = _steps(view.capture, stepped)
    traces = _traces(view.capture, chosen)
    documents = Documents()
    made = [
        documents.document(
            traces[entry.span_id],
            entry.scenario,
            steps.get(entry.span_id, []) if entry.span_id in stepped else None,
        )
        for entry in chosen
        if entry.span_id in traces
    ]
    made = _within(made, MAX_BYTES)
    data = {
        **meta(),
        "names": documents.names,
        "colours": documents.colours,
        "requests": made,
    }
    return Embedded(data, len(made), found.total, sum(each[-1] is not None for each in made))


def meta() -> dict[str, Any]:
    """What the script needs to know whatever the requests are."""
    return {"parts": colours.PARTS, "steps": list(colours.STEPS.items())}


def scenarios_of(view: Overview) -> dict[int, str]:
    """By trace id, as far as a client's results tell."""
    if view.bench is None:
        return {}
    return {int(row.trace_id, 16): row.scenario for row in view.bench.requests}


def _slowest(entries: Sequence[Entry]) -> set[int]:
    """Span ids of the `STEPPED` slowest of each scenario."""
    taken: dict[str, int] = {}
    found = set()
    for entry in sorted(entries, key=lambda e: -e.duration_ns):
        taken[entry.scenario] = taken.get(entry.scenario, 0) + 1
        if taken[entry.scenario] <= STEPPED:
            found.add(entry.span_id)
    return found


def _traces(capture: Capture, entries: Sequence[Entry]) -> dict[int, RequestTrace]:
    wanted = {entry.trace_id for entry in entries}
    return {t.root.span_id: t for t in read_traces(capture, Reading(), wanted)}


def _steps(capture: Capture, roots: set[int]) -> dict[int, list[Step]]:
    """By the root's span id, in order."""
    found: dict[int, list[Step]] = {}
    for step in read_steps(capture, Reading(), roots) if roots else ():
        for span_id in {member.span_id for member in step.members or ()} & roots:
            found.setdefault(span_id, []).append(step)
    for steps in found.values():
        steps.sort(key=lambda step: step.schedule)
    return found


def _within(documents: list[Document], most: int) -> list[Document]:
    """As many as fit: the slowest come first, and of the others every so-manieth is kept."""
    sizes = [len(json.dumps(each, ensure_ascii=False, separators=(",", ":"))) for each in documents]
    kept = list(range(len(documents)))
    while sum(sizes[i] for i in kept) > most and len(kept) > 1:
        half = len(kept) // 4
        kept = kept[:half] + kept[half::2]
    return [documents[i] for i in kept]
