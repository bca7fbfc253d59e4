"""Accounts for requests as they end, from the steps handed out before."""

from __future__ import annotations

from dataclasses import replace

from vllm_codesign import semconv as S
from vllm_codesign.accounting import Timeline, account, bottleneck, exposed_ns
from vllm_codesign.accounting.timeline import DECODE, PREFILL
from vllm_codesign.model.step import Accounting, Step
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span

_ROLES = {S.PREFILL.name: PREFILL, S.DECODE.name: DECODE}


class Accountant:
    """Step timelines of all engines, as far back as the oldest request in the making."""

    def __init__(self) -> None:
        self.timelines: dict[int, Timeline] = {}

    def take(self, step: Step) -> None:
        """The next step of its engine."""
        timeline = self.timelines.get(step.engine)
        if timeline is None:
            timeline = self.timelines[step.engine] = Timeline(step.engine)
        timeline.add(step)

    def account(self, trace: RequestTrace) -> RequestTrace:
        """`trace` with the parts of its wall time on its root, and its steps on its phases."""
        parts = accounting_attributes(account(trace, self.timelines))
        root = replace(trace.root, attributes={**trace.root.attributes, **parts})
        return self.name_steps(RequestTrace(root, trace.children))

    def name_steps(self, trace: RequestTrace) -> RequestTrace:
        """`trace` with its steps on its phases; nothing more is asked of its root then."""
        done = RequestTrace(trace.root, tuple(self._name_steps(span) for span in trace.children))
        for timeline in self.timelines.values():
            timeline.forget(trace.root.span_id)
        return done

    def _name_steps(self, span: Span) -> Span:
        role = _ROLES.get(span.name)
        timeline = self.timelines.get(span.attributes.get(S.ENGINE_PID.key))  # type: ignore[arg-type]
        if role is None or timeline is None:
            return span
        served = timeline.served(str(span.attributes.get(S.REQUEST_ID.key)), role)
        if served is None:
            return span
        named = {
            S.STEP_FIRST.key: served.first,
            S.STEP_LAST.key: served.last,
            S.STEP_COUNT.key: served.count,
            S.STEP_DEVICE.key: served.device_ns,
        }
        return replace(span, attributes={**span.attributes, **named})

    def trim(self, before_ns: int) -> None:
        """Forget steps that were over before this instant."""
        for timeline in self.timelines.values():
            timeline.trim(before_ns)


def accounting_attributes(accounting: Accounting) -> dict[str, AttributeValue]:
    """What the SERVER span says of it; parts that are zero are left out."""
    attributes: dict[str, AttributeValue] = {
        f"codesign.part.{part}_ns": ns for part, ns in accounting.parts.items()
    }
    attributes[S.HOST_EXPOSED.key] = exposed_ns(accounting)
    attributes[S.HOST_HIDDEN.key] = accounting.hidden_ns
    if worst := bottleneck(accounting):
        attributes[S.BOTTLENECK.key] = worst
    return attributes
