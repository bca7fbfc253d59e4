"""The study's columns: by its definitions, as its published figures show them."""

import json
from pathlib import Path

import pytest

from tests.support import traces
from vllm_codesign.analysis.client import COLUMNS, TTFT, measure, percent

STUDY = Path(__file__).parents[3] / "shared" / "data" / "study_mi300x.json"


def test_columns_of_one_request() -> None:
    row = traces.bench_run().requests[0]
    assert measure(row) == pytest.approx(
        {
            "serialize": 0.1,
            "http_overhead": 15.0,
            "prefill": 41.04,
            "decode": 100.0,
            "ttft": row.ttft_ms,
            "total": 156.14,
            "cpu_percent": 100 * 15.1 / 156.14,
            "gpu_percent": 100 * 141.04 / 156.14,
        }
    )
    assert set(measure(row)) == {column.key for column in (*COLUMNS, TTFT)}


def test_errors_have_no_columns() -> None:
    row = traces.bench_run().requests[0]
    assert measure(row.model_copy(update={"status": "error", "error": "timeout"})) == {}


def test_what_was_never_reached_is_left_out() -> None:
    row = traces.bench_run().requests[0].model_copy(update={"decode_ms": None})
    assert "decode" not in measure(row)
    assert "gpu_percent" not in measure(row)
    assert "cpu_percent" in measure(row)


def test_without_streaming_no_cpu_share_is_claimed() -> None:
    row = traces.bench_run().requests[0].model_copy(update={"prefill_ms": None})
    assert "cpu_percent" not in measure(row)


def test_shares_are_those_of_the_study() -> None:
    """Its file has means only: a mean of shares lies near the share of the means.

    They part where requests of one scenario differ much; the tolerance is the largest
    distance at 32 clients, and far below what any other definition would give.
    """
    if not STUDY.exists():
        pytest.skip(f"the study's figures are not at {STUDY}")
    scenarios = json.loads(STUDY.read_text())["arms"]["hbm_prefix_cache"]
    assert len(scenarios) == 8
    for scenario in scenarios:
        mean = {
            key: value["mean"]
            for key, value in scenario.items()
            if isinstance(value, dict) and "mean" in value
        }
        cpu = percent(mean["serialize_ms"] + mean["http_overhead_ms"], mean["total_ms"])
        gpu = percent(mean["prefill_ms"] + mean["decode_ms"], mean["total_ms"])
        assert cpu == pytest.approx(mean["cpu_percent"], abs=0.13), scenario["scenario"]
        assert gpu == pytest.approx(mean["gpu_percent"], abs=0.13), scenario["scenario"]
        assert mean["cpu_percent"] + mean["gpu_percent"] == pytest.approx(100, abs=0.01)
