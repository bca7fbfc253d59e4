"""Traces read back from where OTLP took them: Jaeger, Tempo, the Collector's files."""
