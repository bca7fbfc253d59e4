"""The Collector's table: whether it is there as it should be, and how it is made."""

from __future__ import annotations

from dataclasses import replace

from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store import schema
from vllm_codesign.store.clickhouse.client import Client

DAYS = 30
"""How long rows are kept in a table made here."""
REMEMBERED = 10_000
"""So many of the latest inserts are known by their token, and not taken twice."""

_COLUMNS = (
    "SELECT name, type FROM system.columns WHERE database = {db:String} AND table = {t:String}"
)


def check(client: Client) -> None:
    """Raise `CodesignError` where the table is missing or is not the Collector's."""
    target = client.target
    rows = client.query(_COLUMNS, {"db": target.database, "t": target.table})
    found = {row["name"]: row["type"] for row in rows}
    whole = f"{target.database}.{target.table}"
    if not found:
        raise CodesignError(
            f"no table {whole} there: name it with ?table=, make it with "
            "`codesign store push --create`, or let the Collector make it (create_schema: true)"
        )
    if missing := [name for name in schema.TRACES.names if name not in found]:
        raise CodesignError(
            f"{whole} is not the table of the Collector's ClickHouse exporter (0.110 or newer): "
            f"it lacks {', '.join(missing[:3])}"
        )
    if not found["SpanAttributes"].startswith("Map("):
        raise CodesignError(
            f"SpanAttributes of {whole} is {found['SpanAttributes']}: the queries want the "
            "Collector's Map columns (its exporter without `json`)"
        )


def create(client: Client, days: int = DAYS) -> None:
    """Make the database and the table, if they are not there."""
    target = client.target
    # There is no database to speak to yet.
    anywhere = Client(replace(target, database="default"))
    anywhere.execute(f"CREATE DATABASE IF NOT EXISTS `{target.database}`")
    client.execute(ddl(target.table, days))


def ddl(table: str, days: int = DAYS) -> str:
    """What the Collector's exporter makes, column by column, and a memory of inserts."""
    return _DDL.format(table=table, days=days, remembered=REMEMBERED)


_DDL = """CREATE TABLE IF NOT EXISTS `{table}` (
    Timestamp DateTime64(9) CODEC(Delta, ZSTD(1)),
    TraceId String CODEC(ZSTD(1)),
    SpanId String CODEC(ZSTD(1)),
    ParentSpanId String CODEC(ZSTD(1)),
    TraceState String CODEC(ZSTD(1)),
    SpanName LowCardinality(String) CODEC(ZSTD(1)),
    SpanKind LowCardinality(String) CODEC(ZSTD(1)),
    ServiceName LowCardinality(String) CODEC(ZSTD(1)),
    ResourceAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeName String CODEC(ZSTD(1)),
    ScopeVersion String CODEC(ZSTD(1)),
    SpanAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    Duration UInt64 CODEC(ZSTD(1)),
    StatusCode LowCardinality(String) CODEC(ZSTD(1)),
    StatusMessage String CODEC(ZSTD(1)),
    Events Nested (
        Timestamp DateTime64(9),
        Name LowCardinality(String),
        Attributes Map(LowCardinality(String), String)
    ) CODEC(ZSTD(1)),
    Links Nested (
        TraceId String,
        SpanId String,
        TraceState String,
        Attributes Map(LowCardinality(String), String)
    ) CODEC(ZSTD(1)),
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_span_attr_key mapKeys(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_span_attr_value mapValues(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_duration Duration TYPE minmax GRANULARITY 1
) ENGINE = MergeTree
PARTITION BY toDate(Timestamp)
ORDER BY (ServiceName, SpanName, toDateTime(Timestamp))
TTL toDateTime(Timestamp) + toIntervalDay({days})
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = {remembered}"""
