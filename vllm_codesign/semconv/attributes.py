"""Attributes that rooms share; one that a single room uses is declared there."""

from __future__ import annotations

from vllm_codesign.semconv.types import Attribute

HTTP_REQUEST_SIZE = Attribute("http.request.body.size", "int", "Bytes of the body.", "By")
REQUEST_ID = Attribute("codesign.request.id", "string", "vLLM's internal request id.")
REQUEST_INDEX = Attribute(
    "codesign.request.index", "int", "Which engine request of this HTTP request, from 0."
)
TOKENS = Attribute("codesign.tokens", "int", "Tokens that this phase handled.")
RANK = Attribute("codesign.worker.rank", "int", "Rank of the worker.")
CALLS = Attribute("codesign.calls", "int", "Calls that this aggregate stands for.")
BUSY = Attribute(
    "codesign.busy_ns",
    "int",
    "Time inside those calls; of a stream's chunks every eighth is timed and stands for the rest.",
    "ns",
)
MONOTONIC = Attribute(
    "codesign.monotonic_ns",
    "int",
    "The host's monotonic clock at this span's start: what times of different traces of one host "
    "are compared by.",
    "ns",
)
ENGINE_PID = Attribute("codesign.engine.pid", "int", "Process id of the EngineCore.")

PER_ENGINE_REQUEST = (REQUEST_ID, REQUEST_INDEX)
"""Which request of the engine it is: on every span that comes once for each."""
