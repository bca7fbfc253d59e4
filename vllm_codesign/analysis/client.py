"""The columns of the MI300X study, by its own definitions.

They are what a stopwatch in the client can say: `CPU %` is the time until the response
headers, whatever the server did in it, and `GPU %` everything after, whoever did it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_codesign.model.bench import RequestResult


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its key, its title and its unit."""

    key: str
    label: str
    unit: str
    brief: str


HEADERS = Column("http_overhead", "HTTP OH", "ms", "sending to response headers")
PREFILL = Column("prefill", "Prefill", "ms", "response headers to first token")
DECODE = Column("decode", "Decode", "ms", "first token to last")
TOTAL = Column("total", "Total", "ms", "all of it, one stopwatch")
COLUMNS = (
    Column("serialize", "Serialize", "ms", "encoding the body"),
    HEADERS,
    PREFILL,
    DECODE,
    TOTAL,
    Column("cpu_percent", "CPU %", "%", "(Serialize + HTTP OH) / Total of each request"),
    Column("gpu_percent", "GPU %", "%", "(Prefill + Decode) / Total of each request"),
)


TTFT = Column("ttft", "TTFT", "ms", "sending to first token")
"""Not in the study's table, but in its data."""
ITL = Column("itl", "ITL", "ms", "Decode over the tokens after the first")
"""Of a request as a whole: several tokens may come in one chunk."""


def measure(row: RequestResult) -> dict[str, float]:
    """The columns of one request by key; what its client never reached is left out.

    A request that ended in an error has none: it is counted, not averaged in.
    """
    if row.status != "ok":
        return {}
    found = {
        "serialize": row.serialize_ms,
        "http_overhead": row.http_overhead_ms,
        "prefill": row.prefill_ms,
        "decode": row.decode_ms,
        "ttft": row.ttft_ms,
        "total": row.total_ms,
    }
    values = {key: value for key, value in found.items() if value is not None}
    if values.get("total", 0.0) <= 0:
        return values
    # Without streaming the time to headers is the whole request, and no overhead.
    if {"serialize", "http_overhead", "prefill"} <= values.keys():
        values["cpu_percent"] = percent(
            values["serialize"] + values["http_overhead"], values["total"]
        )
    if {"prefill", "decode"} <= values.keys():
        values["gpu_percent"] = percent(values["prefill"] + values["decode"], values["total"])
    return values


def percent(part: float, whole: float) -> float:
    """The study's share: a part of one request's total, in percent."""
    return 100.0 * part / whole
