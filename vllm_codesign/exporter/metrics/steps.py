"""What one step adds."""

from __future__ import annotations

from vllm_codesign.exporter.metrics.histograms import Histograms
from vllm_codesign.model.step import Step
from vllm_codesign.semconv import metrics as M

_S = 1e-9


class StepMetrics:
    """Every step, stored or not."""

    def __init__(self, histograms: Histograms) -> None:
        self._record = histograms.record

    def take(self, step: Step) -> None:
        """One step."""
        begin, planned = step.schedule
        self._record(M.SCHEDULE_DURATION, (planned - begin) * _S, None)
        self._record(M.STEP_REQUESTS, step.requests, None)
        if step.update is not None:
            self._record(M.STEP_DURATION, (step.update[1] - begin) * _S, None)
