"""What each engine's device did, as cells: busy, and idle by cause."""

from __future__ import annotations

from vllm_codesign.accounting import Fleet
from vllm_codesign.analysis.accounts import THROUGHPUT
from vllm_codesign.analysis.finding import number
from vllm_codesign.analysis.sheet import Sheet
from vllm_codesign.semconv import IdleCause


def fleet_sheet(fleet: Fleet) -> Sheet:
    """A row for each engine, in percent of the scenario's time."""
    causes = [cause.value for cause in IdleCause if fleet.idle_ns.get(cause.value)]
    return Sheet(
        f"device ({THROUGHPUT}), % of {number((fleet.end_ns - fleet.start_ns) / 1e6)} ms",
        ("engine", "steps", "busy", *(f"idle: {cause}" for cause in causes), "host hidden"),
        1,
        tuple(
            (
                str(engine.engine),
                str(engine.steps),
                *(
                    f"{100 * ns / engine.window_ns:.1f}" if engine.window_ns else "–"
                    for ns in (
                        engine.busy_ns,
                        *(engine.idle_ns.get(cause, 0) for cause in causes),
                        engine.hidden_ns,
                    )
                ),
            )
            for engine in fleet.engines
        ),
    )
