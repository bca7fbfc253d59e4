"""The local store: Parquet segments written by the exporter, read with DuckDB."""
