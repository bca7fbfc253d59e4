import io

import pytest
from rich.console import Console

from vllm_codesign.bench.summary import summarize, table
from vllm_codesign.model.bench import BenchRun, RequestResult, Scenario


def row(index: int, **changes: object) -> RequestResult:
    fields: dict[str, object] = {
        "scenario": "s",
        "repeat": 0,
        "index": index,
        "trace_id": f"{index:032x}",
        "start_unix_ns": 1,
        "status": "ok",
        "prompt_tokens": 100 + index,
        "serialize_ms": 1.0,
        "http_overhead_ms": 9.0,
        "prefill_ms": 30.0,
        "decode_ms": 60.0,
        "ttft_ms": 39.0,
        "total_ms": 100.0,
        **changes,
    }
    return RequestResult.model_validate(fields)


def run_of(*rows: RequestResult) -> BenchRun:
    return BenchRun(
        tool_version="0",
        url="http://x",
        model="m",
        started_unix_ns=1,
        scenarios=[Scenario(name="s", concurrency=1, prompt_tokens=100)],
        requests=list(rows),
    )


def test_shares_are_the_studys():
    (summary,) = summarize(run_of(row(0)))

    assert summary.figures["cpu_percent"].mean == pytest.approx(10.0)
    assert summary.figures["gpu_percent"].mean == pytest.approx(90.0)


def test_errors_are_counted_and_never_averaged_in():
    failed = {"status": "error", "error": "timeout after 1 s", "http_overhead_ms": 1e6}
    (summary,) = summarize(run_of(row(0), row(1), row(2, **failed), row(3, **failed)))

    assert summary.n == 4
    assert summary.errors == {"timeout after 1 s": 2}
    assert summary.figures["http_overhead"].n == 2
    assert summary.figures["http_overhead"].mean == 9.0
    assert summary.prompt_tokens == (100, 101)


def test_without_streaming_no_share_is_claimed():
    (summary,) = summarize(run_of(row(0, prefill_ms=None, decode_ms=None, ttft_ms=None)))

    assert "cpu_percent" not in summary.figures
    assert "prefill" not in summary.figures


def test_percentiles_are_those_of_analyze():
    totals = [400.0, 100.0, 300.0, 200.0, 500.0]
    (summary,) = summarize(run_of(*(row(i, total_ms=t) for i, t in enumerate(totals))))

    made = summary.figures["total"]
    assert (made.mean, made.p50, made.p95, made.n) == (300.0, 300.0, 500.0, 5)


def test_the_table_shows_scenarios_without_any_answer():
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table(summarize(run_of(row(0, status="error", error="x", prompt_tokens=None)))))

    text = console.export_text()
    assert "HTTP OH" in text
    assert "–" in text
