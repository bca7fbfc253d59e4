"""The client's view of a run in a few figures, by the study's definitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from vllm_codesign.analysis import client, stats
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.model.bench import BenchRun, RequestResult

COLUMNS = (*client.COLUMNS[:4], client.TTFT, *client.COLUMNS[4:])
"""The study's columns as `analyze` prints them, and TTFT."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One scenario. `figures` has the key of each column that was measured; failed requests
    are in `errors` (reason to count) and nowhere else."""

    scenario: str
    n: int
    errors: dict[str, int]
    prompt_tokens: tuple[int, int] | None
    """Fewest and most, as the server counted them."""
    figures: dict[str, Stat]


def summarize(run: BenchRun) -> list[Summary]:
    """One summary per scenario, in the run's order."""
    return [
        _summary(scenario.name, [r for r in run.requests if r.scenario == scenario.name])
        for scenario in run.scenarios
    ]


def _summary(name: str, rows: Sequence[RequestResult]) -> Summary:
    good = [row for row in rows if row.status == "ok"]
    tokens = [row.prompt_tokens for row in good if row.prompt_tokens is not None]
    measured = [client.measure(row) for row in good]
    figures = {}
    for column in COLUMNS:
        values = [values[column.key] for values in measured if column.key in values]
        if (stat := stats.summarize(values)) is not None:
            figures[column.key] = stat
    return Summary(
        scenario=name,
        n=len(rows),
        errors=dict(Counter(row.error or "unknown" for row in rows if row.status == "error")),
        prompt_tokens=(min(tokens), max(tokens)) if tokens else None,
        figures=figures,
    )


def table(summaries: Sequence[Summary]) -> Table:
    """Three rows a scenario: mean, p50, p95; times in milliseconds."""
    made = Table(
        title="Client's view, as the MI300X study timed it (ms)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    labels = [column.label for column in COLUMNS]
    for header in ("scenario", "n", "errors", "prompt tokens", "", *labels):
        left = header in ("scenario", "")
        made.add_column(header, justify="left" if left else "right", no_wrap=True)
    for summary in summaries:
        head = (
            summary.scenario,
            str(summary.n),
            str(sum(summary.errors.values())),
            _token_range(summary.prompt_tokens),
        )
        for statistic in ("mean", "p50", "p95"):
            cells = (_cell(summary.figures.get(column.key), statistic) for column in COLUMNS)
            made.add_row(*(head if statistic == "mean" else ("",) * 4), statistic, *cells)
        made.add_section()
    return made


def _token_range(tokens: tuple[int, int] | None) -> str:
    if tokens is None:
        return "–"
    low, high = tokens
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _cell(value: Stat | None, statistic: str) -> str:
    if value is None:
        return "–"
    number: float = getattr(value, statistic)
    return f"{number:,.1f}" if number >= 1 else f"{number:.3f}"
