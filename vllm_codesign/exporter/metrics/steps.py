"""What one step adds."""

from __future__ import annotations

from vllm_codesign.exporter.metrics.instruments import NO_CONTEXT, Instruments
from vllm_codesign.model.step import Step
from vllm_codesign.semconv import metrics as M

_S = 1e-9


class StepMetrics:
    """Every step, stored or not."""

    def __init__(self, instruments: Instruments) -> None:
        self._record = instruments.record

    def take(self, step: Step) -> None:
        """One step."""
        begin, planned = step.schedule
        self._record(M.SCHEDULE_DURATION, (planned - begin) * _S, NO_CONTEXT)
        self._record(M.STEP_REQUESTS, step.requests, NO_CONTEXT)
        if step.update is not None:
            self._record(M.STEP_DURATION, (step.update[1] - begin) * _S, NO_CONTEXT)
