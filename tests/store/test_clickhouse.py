"""A segment loads into ClickHouse as it is; runs where `pip install chdb` (2 s, 500 MB) was."""

from pathlib import Path

import pytest

from tests.store.test_schema import OTEL_TRACES
from tests.support import traces

session = pytest.importorskip("chdb.session", reason="needs chdb, ClickHouse in a wheel")


def test_a_segment_loads_into_the_collectors_table(tmp_path: Path) -> None:
    capture = traces.write_capture(tmp_path)
    flat = [f"`{n}` {t}" for n, t in OTEL_TRACES.items() if "." not in n]
    nested = [
        f"{group} Nested ("
        + ", ".join(
            f"{name.partition('.')[2]} {kind.removeprefix('Array(')[:-1]}"
            for name, kind in OTEL_TRACES.items()
            if name.startswith(f"{group}.")
        )
        + ")"
        for group in ("Events", "Links")
    ]
    clickhouse = session.Session()
    clickhouse.query("CREATE DATABASE otel")
    clickhouse.query(
        f"CREATE TABLE otel.otel_traces ({', '.join(flat + nested)}) "
        "ENGINE = MergeTree ORDER BY (ServiceName, SpanName, toDateTime(Timestamp))"
    )
    clickhouse.query(
        f"INSERT INTO otel.otel_traces SELECT * FROM file('{capture.traces}/*.parquet', Parquet)"
    )
    answer = clickhouse.query(
        """SELECT SpanName, count(), sum(Duration), toUnixTimestamp64Nano(min(Timestamp))
           FROM otel.otel_traces WHERE SpanAttributes['codesign.outcome'] = 'completed'
           GROUP BY SpanName""",
        "CSV",
    )
    total_ns = sum(trace.root.duration_ns for trace in traces.traces())
    assert str(answer).strip() == (f'"POST /v1/chat/completions",40,{total_ns},{traces.EPOCH_NS}')
