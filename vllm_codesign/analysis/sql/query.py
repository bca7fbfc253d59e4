"""The queries, as ClickHouse runs them and as DuckDB does.

The text of a query is ClickHouse's own SQL, in a file of its own; `-- include NAME` takes in a
piece that several share. Parameters are ClickHouse's (`{since:Int64}`) and are bound by the engine,
never pasted. DuckDB runs the same text: it is taught ClickHouse's names for the few functions that
it calls otherwise, and its parameters are spelled `$since`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

TABLE = "otel_traces"
CLIENTS = "clients"
CLIENTS_COLUMNS = MappingProxyType(
    {"TraceId": "String", "Scenario": "String", "HeadersNs": "Int64"}
)
"""The table that joins requests with a client's results: by trace id its scenario, and how long the
client waited for the response's headers, -1 where it does not say."""
EVER_NS = 1 << 62
"""Beyond what a clock says in a century, and within ClickHouse's DateTime64(9)."""

NAMES = (
    "range",
    "outcomes",
    "phases",
    "parts",
    "bottlenecks",
    "queue",
    "transfers",
    "evictions",
    "sessions",
    "fleet",
    "steps_in_windows",
)
"""The queries; the other files are pieces of them."""

_INCLUDE = re.compile(r"^-- include (\w+)\n", re.MULTILINE)
_PARAMETER = re.compile(r"\{(\w+):(\w+)\}")

_DUCKDB_NAMES = (
    "arrayJoin(x) AS unnest(x)",
    "arrayEnumerate(x) AS range(1, len(x) + 1)",
    "arraySort(x) AS list_sort(x)",
    "groupArray(x) AS list(x)",
    "mapKeys(x) AS map_keys(x)",
    "intDiv(a, b) AS a // b",
    "toInt64(x) AS CAST(x AS BIGINT)",
    "toInt128(x) AS CAST(x AS HUGEINT)",
    "toFloat64(x) AS CAST(x AS DOUBLE)",
    "toInt64OrNull(x) AS TRY_CAST(x AS BIGINT)",
    "toFloat64OrNull(x) AS TRY_CAST(x AS DOUBLE)",
    "toUnixTimestamp64Nano(x) AS epoch_ns(x)",
    "fromUnixTimestamp64Nano(x) AS make_timestamp_ns(x)",
)
DUCKDB_MACROS = tuple(f"CREATE OR REPLACE TEMP MACRO {each}" for each in _DUCKDB_NAMES)
"""What a DuckDB connection executes once before it runs the queries."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the queries are asked about; times in Unix nanoseconds.

    Requests that began in [`since`, `until`) count. Their spans and the steps that served them
    begin in [`first`, `last`), which is wider by the longest request.
    """

    since: int = 0
    until: int = EVER_NS
    first: int = 0
    last: int = EVER_NS
    service: str = ""
    """`OTEL_SERVICE_NAME` of the servers; empty for all."""

    def bound(self) -> dict[str, str | int]:
        """By name."""
        return {
            name: getattr(self, name) for name in ("since", "until", "first", "last", "service")
        }

    def around(self, longest_ns: int) -> Parameters:
        """The same requests, with room for their spans."""
        return Parameters(
            self.since,
            self.until,
            max(0, self.since - longest_ns),
            min(EVER_NS, self.until + longest_ns),
            self.service,
        )


@cache
def text(name: str) -> str:
    """The query `name` as ClickHouse runs it."""
    here = files("vllm_codesign.analysis.sql")

    def piece(match: re.Match[str]) -> str:
        return here.joinpath(f"{match.group(1)}.sql").read_text(encoding="utf-8")

    return _INCLUDE.sub(piece, here.joinpath(f"{name}.sql").read_text(encoding="utf-8"))


def parameters_of(query: str) -> frozenset[str]:
    """The names that `query` wants bound."""
    return frozenset(match.group(1) for match in _PARAMETER.finditer(query))


def for_duckdb(query: str) -> str:
    """The same query with DuckDB's spelling of parameters; the table is the view of that name."""

    def spelled(match: re.Match[str]) -> str:
        name, kind = match.groups()
        if kind == "Identifier":
            return TABLE
        return f"CAST(${name} AS {_DUCKDB_TYPES[kind]})"

    return _PARAMETER.sub(spelled, query)


_DUCKDB_TYPES = {"Int64": "BIGINT", "String": "VARCHAR"}
