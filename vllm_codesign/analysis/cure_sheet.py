"""What would change each cause that a scenario's requests waited for, as cells."""

from __future__ import annotations

from vllm_codesign.analysis.accounts import LATENCY
from vllm_codesign.analysis.cures import change
from vllm_codesign.analysis.finding import number
from vllm_codesign.analysis.sheet import Sheet
from vllm_codesign.analysis.tables import Scenario
from vllm_codesign.analysis.verdict import NOTHING, shares
from vllm_codesign.store.capture import RunInfo


def cure_sheet(scenario: Scenario, clients: int | None, run: RunInfo | None) -> Sheet | None:
    """Causes of at least 1 % of the waiting time, the largest first; None where there is none."""
    found = scenario.accounts
    worth = [each for each in shares(scenario) if each.share >= NOTHING]
    if found is None or not worth:
        return None
    server = found.settings(run)
    return Sheet(
        f"what would change it ({LATENCY})",
        ("cause", "part", "what would change it", "at most", "mean ms", "%"),
        4,
        tuple(
            (
                each.cure.label,
                each.cure.part.value,
                change(each.cure, clients, server, found.queued),
                each.cure.at_most,
                number(each.share * found.total.mean),
                f"{100 * each.share:.1f}",
            )
            for each in worth
        ),
    )
