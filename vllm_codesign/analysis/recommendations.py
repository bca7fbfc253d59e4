"""The MI300X study's recommendations, each with what it could gain at most by our accounting.

A recommendation removes time only under the causes that it touches. Their share of the requests'
wall time (latency view) is a ceiling: what is left when it works perfectly and nothing else moves
into the gap. Where a ceiling lies below what the study expects, the recommendation cannot do what
is said of it, on this server and under this load. A ceiling above it proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_codesign.analysis.accounts import LATENCY
from vllm_codesign.analysis.cures import CURES, POOL
from vllm_codesign.analysis.finding import number
from vllm_codesign.analysis.sheet import Sheet
from vllm_codesign.analysis.tables import Scenario
from vllm_codesign.analysis.verdict import shares
from vllm_codesign.semconv import HOST_PARTS, Part

SOURCE = "CPU-GPU Co-Design for Agentic LLM Inference (2026-05-14), section 5"

_STEP = (Part.GAP_SCHEDULE, Part.GAP_PREPARE, Part.GAP_UPDATE, Part.GAP_IPC, Part.GAP_OUTPUT)
_HOST = tuple(cure.cause for cure in CURES if cure.part in HOST_PARTS)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One of the study's, and the causes of waiting that it could remove."""

    tier: int
    name: str
    expected: str
    """Of end-to-end time, in the study's words."""
    causes: tuple[str, ...]
    """Of `cures.CURES`."""


RECOMMENDATIONS = (
    Recommendation(
        1,
        "Pipeline scheduling with GPU execution",
        "5–10 % at high concurrency",
        (*_STEP, Part.QUEUE_HOST),
    ),
    Recommendation(
        1, "Move tokenization off main event loop", "2–3 % at high concurrency", (POOL,)
    ),
    Recommendation(
        1, "Batch scheduling decisions", "3–5 % at high concurrency", (Part.GAP_SCHEDULE,)
    ),
    # Blocks are allocated inside schedule(): no capture can tell more of it than that.
    Recommendation(
        1, "Pre-allocate KV blocks speculatively", "2–3 % at high concurrency", (Part.GAP_SCHEDULE,)
    ),
    # These three make host work faster and remove none: all of it is more than they can gain.
    Recommendation(2, "NUMA affinity", "1–2 %", _HOST),
    Recommendation(2, "CPU frequency governor", "0.5–1 %", _HOST),
    Recommendation(2, "Dedicated CPU cores for scheduler", "1–2 %", _HOST),
)
"""In the study's order."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a recommendation could remove at most in one scenario; `ms` is a mean per request."""

    recommendation: Recommendation
    ms: float
    share: float


def ceilings(scenario: Scenario) -> tuple[Ceiling, ...]:
    """One for each recommendation; none where the engine's steps were not recorded."""
    found = scenario.accounts
    if found is None or not found.stepwise or not found.total.mean:
        return ()
    by_cause = {each.cure.cause: each.share for each in shares(scenario)}
    made = []
    for recommendation in RECOMMENDATIONS:
        share = sum(by_cause.get(cause, 0.0) for cause in recommendation.causes)
        made.append(Ceiling(recommendation, share * found.total.mean, share))
    return tuple(made)


def ceilings_sheet(scenario: Scenario) -> Sheet | None:
    """The ceilings as cells, beside what the study expects; None where there are none."""
    found = ceilings(scenario)
    if not found:
        return None
    return Sheet(
        f"the study's recommendations: at most ({LATENCY})",
        ("tier", "recommendation", "the study expects", "at most ms", "at most %"),
        3,
        tuple(
            (
                str(each.recommendation.tier),
                each.recommendation.name,
                each.recommendation.expected,
                number(each.ms),
                f"{100 * each.share:.1f}",
            )
            for each in found
        ),
    )
