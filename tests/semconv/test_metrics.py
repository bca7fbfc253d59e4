"""Metrics as they are declared, and the page that is written from them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from vllm_codesign.semconv import metrics as M

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("metric", "name", "unit"),
    [
        (M.REQUEST_DURATION, gen_ai_metrics.GEN_AI_SERVER_REQUEST_DURATION, "s"),
        (M.TIME_TO_FIRST_TOKEN, gen_ai_metrics.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN, "s"),
        (M.TIME_PER_OUTPUT_TOKEN, gen_ai_metrics.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN, "s"),
    ],
)
def test_names_are_opentelemetrys(metric: M.Metric, name: str, unit: str) -> None:
    assert (metric.name, metric.unit) == (name, unit)


def test_names_are_each_once_here_and_for_prometheus() -> None:
    for names in ([m.name for m in M.METRICS], [M.prometheus_name(m) for m in M.METRICS]):
        assert len(names) == len(set(names))
    histograms = {M.prometheus_name(m) for m in M.METRICS if m.instrument == "histogram"}
    others = {M.prometheus_name(m) for m in M.METRICS if m.instrument != "histogram"}
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}
    assert parts.isdisjoint(others)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (M.REQUEST_DURATION, "gen_ai_server_request_duration_seconds"),
        (M.REQUESTS, "codesign_requests_total"),
        (M.PART_TIME, "codesign_part_time_seconds_total"),
        (M.STRANDED, "codesign_kv_stranded_byte_seconds_total"),
        (M.KV_TRANSFER_BYTES, "codesign_kv_transfer_bytes_total"),
        (M.PROCESS_CORES, "codesign_process_cpu_ratio"),
        (M.POOL_THREADS, "codesign_pool_threads"),
    ],
)
def test_names_for_prometheus(metric: M.Metric, name: str) -> None:
    assert M.prometheus_name(metric) == name


def test_buckets_are_histograms_and_rise() -> None:
    for metric in M.METRICS:
        assert bool(metric.buckets) == (metric.instrument == "histogram"), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name


def test_no_attribute_is_an_id() -> None:
    keys = {a.key for metric in M.METRICS for a in metric.attributes}
    assert not [key for key in keys if key.endswith((".id", ".pid"))]


def test_the_page_is_what_its_generator_writes() -> None:
    generator = _load(ROOT / "docs" / "generate_metrics.py")
    assert generator.PAGE.read_text() == generator.page(), "run `make docs`"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
