"""What a sampler gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from vllm_codesign.model.trace import AttributeValue
from vllm_codesign.semconv import Series


class Sample(NamedTuple):
    """One value of a series, in the unit of the series."""

    at_ns: int
    """On the monotonic clock."""
    series: Series
    value: float
    attributes: Mapping[str, AttributeValue]


class Sampler(Protocol):
    """Asked about once a second."""

    def sample(self, now_ns: int) -> Iterable[Sample]:
        """What there is since the last call; `now_ns` is monotonic."""
        ...


class Process(NamedTuple):
    """A vLLM process that records."""

    pid: int
    role: str
    """`api_server`, `engine_core`, `worker`, or several with `+`; empty until it is known."""
