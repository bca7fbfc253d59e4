"""Every request's figures, kept by scenario and batch, so that they can be drawn again."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_codesign import semconv as S
from vllm_codesign.accounting import bottleneck, exposed_ns
from vllm_codesign.analysis import figures
from vllm_codesign.model.bench import BenchRun
from vllm_codesign.model.step import Accounting
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.semconv import Part

_NS_PER_MS = 1e6
_PHASES = {figure.key.removeprefix("phase."): figure.key for figure in figures.PHASES}

Batches = dict[int, "array[float]"]


@dataclass
class Samples:
    """Of one server: values in ms by scenario, figure's key and batch."""

    values: dict[str, dict[str, Batches]] = field(default_factory=dict)
    bottlenecks: dict[str, Counter[str]] = field(default_factory=dict)
    """Requests by their largest avoidable part, by scenario."""

    def take_client(self, run: BenchRun) -> None:
        """All requests that were answered, with or without a trace."""
        for row in run.requests:
            self._add(row.scenario, row.repeat, figures.of_client(row))

    def take_trace(
        self,
        where: tuple[str, int],
        trace: RequestTrace,
        phases_ms: Mapping[str, float],
        accounting: Accounting | None,
    ) -> None:
        """A completed request of this scenario and batch, as its server saw it."""
        scenario, batch = where
        found = {key: phases_ms[phase] for phase, key in _PHASES.items()}
        first = trace.root.attributes.get(S.RESPONSE_TTFC.key)
        if isinstance(first, float | int):
            found[figures.FIRST_CHUNK.key] = first * 1e3
        if accounting is not None:
            found[figures.SERVER_TOTAL.key] = accounting.total_ns / _NS_PER_MS
            found[figures.EXPOSED.key] = exposed_ns(accounting) / _NS_PER_MS
            found[figures.HIDDEN.key] = accounting.hidden_ns / _NS_PER_MS
            for part in Part:  # one that it did not have is 0, and counts
                found[f"part.{part.value}"] = accounting.parts.get(part.value, 0) / _NS_PER_MS
            if worst := bottleneck(accounting):
                self.bottlenecks.setdefault(scenario, Counter())[worst] += 1
        self._add(scenario, batch, found)

    def batches(self, scenario: str, key: str) -> list[array[float]]:
        """In the order of their numbers; of one whose requests all failed there is none."""
        found = self.values.get(scenario, {}).get(key, {})
        return [found[batch] for batch in sorted(found)]

    def _add(self, scenario: str, batch: int, found: Mapping[str, float]) -> None:
        if not found:  # it failed
            return
        by_key = self.values.setdefault(scenario, {})
        for key, value in found.items():
            by_key.setdefault(key, {}).setdefault(batch, array("d")).append(value)
