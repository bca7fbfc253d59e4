"""Grafana's dashboards, written from `vllm_codesign.semconv` by `generate.py`."""
