"""The comparison of arms as one HTML file: the terminal's table, and a chart of the shares."""

from __future__ import annotations

from pathlib import Path

from vllm_codesign import __version__
from vllm_codesign.analysis import tables
from vllm_codesign.analysis.arms import Comparison, Shares
from vllm_codesign.analysis.arms_sheet import arms_sheet, remarks
from vllm_codesign.model.bench import ArmsRun
from vllm_codesign.recorder.command_line import without_secrets, without_userinfo
from vllm_codesign.report.bars import Bar, Chart, Segment, ticks
from vllm_codesign.report.colours import PARTS
from vllm_codesign.report.environment import environment, utc
from vllm_codesign.semconv import Part

_LABELS = {
    "exposed host": PARTS[Part.GAP_PREPARE.value],
    "device": PARTS[Part.DEVICE_DECODE.value],
    "queue.capacity": PARTS[Part.QUEUE_CAPACITY.value],
    "kv.load": PARTS[Part.KV_LOAD.value],
    "unexplained": PARTS[Part.UNATTRIBUTED.value],
    "engine, steps not recorded": "#cdd5df",
}
_NOTHING = 1e-6
"""Percent: what is left of a sum of floats."""


def render_arms(run: ArmsRun, comparison: Comparison, folder: Path) -> str:
    """The whole page; figures are those of `analysis.arms`."""
    return (
        environment()
        .get_template("arms.html.j2")
        .render(
            run=run,
            model=without_userinfo(run.model),
            flags=" ".join(without_secrets(run.server_flags)),
            comparison=comparison,
            sheet=arms_sheet(comparison),
            remarks=list(remarks(comparison)),
            shares=chart(comparison),
            where=folder,
            started=utc(run.started_unix_ns),
            view_name=tables.VIEW,
            version=__version__,
        )
    )


def chart(comparison: Comparison) -> Chart | None:
    """Stacked bars, percent of wall time, a row for each scenario and arm that is accounted for."""
    shown = [
        (f"{compared.scenario} · {figures.arm}", figures.shares)
        for compared in comparison.scenarios
        for figures in compared.arms
        if figures.shares is not None
    ]
    if not shown:
        return None
    bars = tuple(
        Bar(
            name,
            tuple(
                Segment(label, share, f"{share:.1f} %", share, _LABELS[label])
                for label, share in _stack(shares).items()
                if share > _NOTHING
            ),
            f"{shares.n} requests",
        )
        for name, shares in shown
    )
    present = {segment.name for bar in bars for segment in bar.segments}
    legend = tuple((label, colour) for label, colour in _LABELS.items() if label in present)
    return Chart("Share of the wall time", "%", bars, ticks(100.0), (("", legend),))


def _stack(shares: Shares) -> dict[str, float]:
    """What sums to 100; below level `step` the engine's time has no parts."""
    known = (
        shares.exposed,
        shares.device or 0.0,
        shares.queue_capacity or 0.0,
        shares.kv_load or 0.0,
        shares.unexplained,
    )
    values = (*known, max(100 - sum(known), 0.0))
    return dict(zip(_LABELS, values, strict=True))
