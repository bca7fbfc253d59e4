"""The decomposition as SQL on `otel_traces`: the same text on ClickHouse and on DuckDB."""
