"""`codesign micro --json`: what single components cost, timed alone, and how that grows.

Written by `codesign micro` and read back by `codesign report`. Times are nanoseconds of wall time
of one call, on one thread.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
FEWEST_ROUNDS = 3
"""With fewer samples an interval says nothing: one round's has no width at all."""

Dimension = Literal["tokens", "requests"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Timing(_Strict):
    """One case: a component at one size."""

    component: str = Field(description="what is called: encode, decode, schedule, block_hash, ...")
    group: Literal["frontend", "hashing", "scheduler"]
    variant: str = Field(default="", description="cold, warm, prefill, decode, a block size, ...")
    tokens: int | None = Field(default=None, ge=0, description="of the text, or of each request")
    requests: int | None = Field(default=None, ge=1, description="in the scheduler")
    samples_ns: list[float] = Field(min_length=1, description="one for each round")
    median_ns: float
    low_ns: float = Field(description="95 % bootstrap interval of the median")
    high_ns: float
    note: str = Field(default="", description="what the figure holds that its name does not say")


class Growth(_Strict):
    """Time ~ size to the power of `exponent`, with a 95 % bootstrap interval."""

    component: str
    group: Literal["frontend", "hashing", "scheduler"]
    variant: str = ""
    against: Dimension
    at: int | None = Field(default=None, description="the other dimension, which was held fixed")
    sizes: list[int] = Field(min_length=2)
    exponent: float
    low: float
    high: float
    constant_ns: float = Field(default=0.0, description="part that does not grow, if it was fitted")
    method: str


class Skipped(_Strict):
    """A component that could not be timed here, and why."""

    component: str
    reason: str


class MicroRun(_Strict):
    """All that one run of `codesign micro` found."""

    schema_version: Literal[1] = 1
    tool_version: str
    started_unix_ns: int
    environment: dict[str, str] = Field(
        description="python, cpu, cores, tokenizer, vllm, torch, transformers, ... as text"
    )
    timings: list[Timing]
    growths: list[Growth] = Field(default_factory=list)
    skipped: list[Skipped] = Field(default_factory=list)
