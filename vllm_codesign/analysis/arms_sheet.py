"""The comparison of arms as text, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_codesign.analysis import tables
from vllm_codesign.analysis.arms import ArmFigures, Comparison, Shares
from vllm_codesign.analysis.bootstrap import ENOUGH_REPEATS, Interval
from vllm_codesign.analysis.sheet import Sheet

_NONE = "–"
_VERDICTS = {True: "within noise", False: "beyond noise", None: _NONE}
_SHARES = ("exposed\nhost %", "device\n%", "queue.\ncapacity %", "kv.load\n%", "unexplained\n%")


def arms_sheet(comparison: Comparison) -> Sheet:
    """One row per scenario and arm; a scenario is named in its first."""
    delta = f"against {comparison.base}\npoints [95 %]"
    return Sheet(
        f"CPU % as the MI300X study timed it | accounting ({tables.VIEW}), % of wall time",
        ("scenario", "arm", "n", "CPU %", delta, "", *_SHARES),
        2,
        tuple(
            (compared.scenario if not place else "", *_row(figures))
            for compared in comparison.scenarios
            for place, figures in enumerate(compared.arms)
        ),
        heads=2,
    )


def remarks(comparison: Comparison) -> Iterator[str]:
    """What the table does not say by itself, one line each."""
    servers = ", ".join(f"{count} of {arm}" for arm, count in comparison.servers.items())
    drawn = {
        figures.delta.drawn
        for compared in comparison.scenarios
        for figures in compared.arms
        if figures.delta is not None
    }
    yield f"servers: {servers}. CPU %: means over all requests." + (
        " Within noise: the interval of the difference holds 0." if "repeats" in drawn else ""
    )
    if "repeats" in drawn:
        yield "intervals: bootstrap over servers, so they hold what differs from start to start."
    elif drawn:
        yield (
            "intervals: bootstrap over requests; how one server differs from the next is not in "
            f"them: --repeats {ENOUGH_REPEATS} or more say whether a difference is noise"
        )
    for compared in comparison.scenarios:
        for figures in compared.arms:
            for reason, count in figures.errors.items():
                yield f"{compared.scenario}, {figures.arm}: {count} failed: {reason}"
    for line in comparison.notes:
        yield f"note: {line}"


def _row(figures: ArmFigures) -> tuple[str, ...]:
    cpu = _NONE if figures.cpu is None else f"{figures.cpu.mean:.2f}"
    return (figures.arm, str(figures.n), cpu, *_delta(figures.delta), *_shares(figures.shares))


def _delta(delta: Interval | None) -> tuple[str, str]:
    if delta is None:
        return "", ""
    text = f"{delta.value:+.2f} [{delta.low:+.2f}, {delta.high:+.2f}]"
    return text, _VERDICTS[delta.within_noise]


def _shares(shares: Shares | None) -> tuple[str, ...]:
    if shares is None:
        return (_NONE,) * len(_SHARES)
    values = (
        shares.exposed,
        shares.device,
        shares.queue_capacity,
        shares.kv_load,
        shares.unexplained,
    )
    return tuple(_NONE if value is None else f"{value:.1f}" for value in values)
