"""What panels should show, computed from the capture of the same time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tests.support.prometheus import Labels, labels
from vllm_codesign import semconv as S
from vllm_codesign.accounting import Work, fleet, timelines
from vllm_codesign.accounting.fleet import EngineTime
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace, Span
from vllm_codesign.semconv import metrics as M

Values = dict[Labels, float]


@dataclass(frozen=True)
class Captured:
    """Requests that ended and steps that were planned in a window of wall time, in seconds."""

    traces: Sequence[RequestTrace]
    steps: Sequence[Step]
    start_s: float
    end_s: float
    monotonic_ns: int
    """What the host's monotonic clock is ahead of wall time; negative."""

    @property
    def window_s(self) -> float:
        return self.end_s - self.start_s

    @cached_property
    def ended(self) -> list[RequestTrace]:
        return [t for t in self.traces if self.start_s * 1e9 < t.root.end_ns <= self.end_s * 1e9]

    @cached_property
    def requests(self) -> list[Span]:
        """Their roots, without work that outlived a response, which has a trace of its own."""
        return [trace.root for trace in self.ended if not trace.root.links]

    @cached_property
    def completed(self) -> list[Span]:
        wanted = S.Outcome.COMPLETED.value
        return [root for root in self.requests if root.attributes.get(S.OUTCOME.key) == wanted]

    @cached_property
    def planned(self) -> list[Step]:
        begin, end = (round(at * 1e9) + self.monotonic_ns for at in (self.start_s, self.end_s))
        return [step for step in self.steps if begin < step.schedule[0] <= end]

    def spans(self, name: str) -> list[Span]:
        return [span for trace in self.ended for span in trace.named(name)]

    def phases(self) -> dict[str, list[float]]:
        """Seconds of each phase by its name."""
        found = defaultdict(list)
        for trace in self.ended:
            for span in trace.children:
                found[span.name].append(span.duration_ns / 1e9)
        return found

    def part_s(self, part: S.Part) -> float:
        return self._sum(f"codesign.part.{part.value}_ns") / 1e9

    def waited_s(self) -> float:
        return sum(self.part_s(part) for part in S.Part)

    def host_s(self, attribute: S.Attribute) -> float:
        return self._sum(attribute.key) / 1e9

    def tokens(self, source: S.Attribute) -> int:
        return sum(integer(span, source) for span in self.spans(S.PREFILL.name))

    def blocks(self, at_admission: S.Attribute, decoding: S.Attribute) -> int:
        return sum(integer(s, at_admission) for s in self.spans(S.KV_ALLOCATE.name)) + sum(
            integer(s, decoding) for s in self.spans(S.DECODE.name)
        )

    def first_chunks(self) -> list[float]:
        """Seconds to the first chunk of streams that had a token."""
        return [
            float(of[S.RESPONSE_TTFC.key])  # type: ignore[arg-type]
            for of in (root.attributes for root in self.requests)
            if S.RESPONSE_TTFC.key in of
            and of.get(S.STREAMING.key)
            and of.get(S.USAGE_OUTPUT_TOKENS.key)
        ]

    def per_token(self) -> list[float]:
        return [
            span.duration_ns / 1e9 / (integer(span, S.TOKENS) - 1)
            for span in self.spans(S.DECODE.name)
            if integer(span, S.TOKENS) > 1
        ]

    def device(self, behind_s: float) -> EngineTime:
        """Busy and idle of the one engine, over the window moved into the past."""
        work = Work()
        for trace in self.traces:
            work.take(trace)
        begin, end = (
            round((at - behind_s) * 1e9) + self.monotonic_ns for at in (self.start_s, self.end_s)
        )
        (engine,) = fleet(work, timelines(self.steps), (begin, end)).engines
        return engine

    def _sum(self, key: str) -> int:
        return sum(int(root.attributes.get(key, 0)) for root in self.completed)  # type: ignore[arg-type]


def integer(span: Span, attribute: S.Attribute) -> int:
    value = span.attributes.get(attribute.key, 0)
    assert isinstance(value, int)
    return value


def by(attribute: S.Attribute, values: Mapping[str, float]) -> Values:
    """One series for each value of one label."""
    label = M.prometheus_label(attribute)
    return {labels({label: name}): value for name, value in values.items()}


def counted(names: Iterable[object], over: float) -> dict[str, float]:
    return {str(name): count / over for name, count in Counter(names).items()}


def quantile(q: float, values: Sequence[float], bounds: Sequence[float]) -> float:
    """As `histogram_quantile` has it of a histogram with these upper bounds."""
    rank = q * len(values)
    below, start = 0, 0.0
    for bound in bounds:
        count = sum(value <= bound for value in values)
        if count >= rank:
            return start + (bound - start) * (rank - below) / (count - below)
        below, start = count, bound
    return bounds[-1]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
