"""The figures that two sides are compared by: the client's, the accounting's, the phases'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vllm_codesign.analysis import client, server
from vllm_codesign.model.bench import RequestResult
from vllm_codesign.semconv import Part

Kind = Literal["client", "accounting", "part", "phase"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a request, in ms. `key` is unique, `label` what it is called in a table."""

    key: str
    label: str
    kind: Kind


def _client(column: client.Column, label: str) -> Figure:
    return Figure(f"client.{column.key}", label, "client")


CLIENT_TOTAL = _client(client.TOTAL, "total")
TTFT = _client(client.TTFT, "TTFT")
CLIENT = (
    CLIENT_TOTAL,
    _client(client.HEADERS, "time to headers"),
    TTFT,
    _client(client.PREFILL, "prefill"),
    _client(client.DECODE, "decode"),
    _client(client.ITL, "ITL"),
)
"""What the client's stopwatch says, by the study's definitions."""

SERVER_TOTAL = Figure("server.total", "server's total", "accounting")
EXPOSED = Figure("server.exposed", "host, exposed", "accounting")
HIDDEN = Figure("server.hidden", "host, hidden", "accounting")
FIRST_CHUNK = Figure("server.ttft", "to the first token", "accounting")
PARTS = tuple(Figure(f"part.{part.value}", part.value, "part") for part in Part)
PHASES = tuple(
    Figure(
        f"phase.{phase.key}",
        phase.span.name if phase.span is not None else phase.label,
        "phase",
    )
    for phase in server.PHASES
    if phase.key != "total"
)
FIGURES = (*CLIENT, *PARTS, SERVER_TOTAL, EXPOSED, HIDDEN, FIRST_CHUNK, *PHASES)
BY_KEY = {figure.key: figure for figure in FIGURES}

_INSIDE = {
    Part.FRONTEND_WAIT: ("tokenize_wait", "template_wait", "frontend_wait", "receive", "return"),
    Part.FRONTEND_CPU: ("tokenize_run", "template_run", "frontend_run", "receive", "return"),
    Part.IPC: ("dispatch", "return"),
}
FINER: Mapping[str, tuple[str, ...]] = {
    f"part.{part.value}": tuple(f"phase.{phase}" for phase in phases)
    for part, phases in _INSIDE.items()
}
"""Phases that a part is found in, by key; `docs/accounting.md` has the rule. Other parts are finer
than phases are."""


def of_client(row: RequestResult) -> dict[str, float]:
    """The client's figures of one request; what it never reached is left out."""
    values = client.measure(row)
    tokens = row.completion_tokens
    if "decode" in values and tokens is not None and tokens > 1:
        values[client.ITL.key] = values["decode"] / (tokens - 1)
    return {
        figure.key: values[key]
        for figure in CLIENT
        if (key := figure.key.removeprefix("client.")) in values
    }
