"""Who runs the queries: a ClickHouse server, or DuckDB over a capture's segments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import duckdb

from vllm_codesign.analysis import client as client_columns
from vllm_codesign.analysis.sql import query as queries
from vllm_codesign.analysis.sql.query import CLIENTS, CLIENTS_COLUMNS, Parameters
from vllm_codesign.model.bench import BenchRun
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.clickhouse.client import Client, External
from vllm_codesign.store.reader import Reading, connect

Rows = list[dict[str, Any]]
ClientRows = list[tuple[str | int, ...]]
_NS_PER_MS = 1e6


class Engine(Protocol):
    """Runs a query by its name."""

    def rows(self, name: str, parameters: Parameters) -> Rows:
        """Its rows, by column name."""


def client_rows(bench: BenchRun | None) -> ClientRows:
    """What a client's results are to the queries: rows of `clients`."""
    rows: dict[str, tuple[str | int, ...]] = {}
    for row in bench.requests if bench is not None else ():
        headers_ms = client_columns.measure(row).get("http_overhead")
        headers_ns = -1 if headers_ms is None else round(headers_ms * _NS_PER_MS)
        rows[row.trace_id.lower()] = (row.trace_id.lower(), row.scenario, headers_ns)
    return list(rows.values())


@dataclass(frozen=True, slots=True)
class InClickHouse:
    """The server does the work; a few rows come back."""

    client: Client
    clients: ClientRows = field(default_factory=list)

    def rows(self, name: str, parameters: Parameters) -> Rows:
        text = queries.text(name)
        wanted = queries.parameters_of(text)
        given = {**parameters.bound(), "table": self.client.target.table}
        sent = External(CLIENTS, CLIENTS_COLUMNS, self.clients)
        return self.client.query(text, {k: v for k, v in given.items() if k in wanted}, sent)


@dataclass(frozen=True, slots=True)
class InDuckDB:
    """`connection` has a table or view `otel_traces`; see `over` for that of a capture."""

    connection: duckdb.DuckDBPyConnection

    def rows(self, name: str, parameters: Parameters) -> Rows:
        text = queries.text(name)
        wanted = queries.parameters_of(text)
        given = {k: v for k, v in parameters.bound().items() if k in wanted}
        cursor = self.connection.execute(queries.for_duckdb(text), given)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def in_duckdb(connection: duckdb.DuckDBPyConnection, clients: ClientRows) -> InDuckDB:
    """Teach `connection` what the queries need."""
    for macro in queries.DUCKDB_MACROS:
        connection.execute(macro)
    kinds = {"String": "VARCHAR", "Int64": "BIGINT"}
    columns = ", ".join(f"{name} {kinds[kind]}" for name, kind in CLIENTS_COLUMNS.items())
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {CLIENTS} ({columns})")
    if clients:
        connection.executemany(f"INSERT INTO {CLIENTS} VALUES (?, ?, ?)", clients)
    return InDuckDB(connection)


def over(capture: Capture, clients: ClientRows, reading: Reading | None = None) -> InDuckDB:
    """The queries over the closed segments of `capture`."""
    return in_duckdb(connect(capture, reading), clients)
