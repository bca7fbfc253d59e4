"""Batches told apart: names, and that a mean of cold and warm is none any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import traces
from vllm_codesign.analysis.batches import by_batch
from vllm_codesign.analysis.overview import overview
from vllm_codesign.model.bench import RequestResult, Scenario
from vllm_codesign.model.errors import CodesignError


def test_each_batch_has_a_name() -> None:
    run = traces.bench_run()
    first = run.requests[0]
    scenarios = [
        Scenario(name="cold", concurrency=1, prompt_tokens=10, repeats=2),
        Scenario(name="one", concurrency=1, prompt_tokens=10, repeats=1),
    ]
    rows = [
        first.model_copy(update={"scenario": name, "repeat": repeat})
        for name, repeat in (("cold", 0), ("cold", 1), ("one", 0))
    ]
    split = by_batch(run.model_copy(update={"scenarios": scenarios, "requests": rows}))

    assert [(s.name, s.repeats) for s in split.scenarios] == [
        ("cold.1", 1),
        ("cold.2", 1),
        ("one", 1),
    ]
    assert [row.scenario for row in split.requests] == ["cold.1", "cold.2", "one"]
    assert [row.trace_id for row in split.requests] == [row.trace_id for row in rows]


def test_no_request_is_lost(tmp_path: Path) -> None:
    traces.write_capture(tmp_path / "capture", run=traces.run_info())
    run = traces.bench_run()
    # Every other request is of a second batch.
    rows: list[RequestResult] = [
        row.model_copy(update={"repeat": number % 2}) for number, row in enumerate(run.requests)
    ]
    scenarios = [s.model_copy(update={"repeats": 2}) for s in run.scenarios]
    run = run.model_copy(update={"requests": rows, "scenarios": scenarios})
    (tmp_path / "results.json").write_text(run.model_dump_json())

    whole = {s.name: s for s in overview(tmp_path).tables.scenarios}
    split = {s.name: s for s in overview(tmp_path, split=by_batch).tables.scenarios}
    for scenario in run.scenarios:
        batches = [split[f"{scenario.name}.{number}"] for number in (1, 2)]
        assert scenario.name not in split
        assert all(b.client_rows for b in batches)
        assert sum(b.client_rows for b in batches) == whole[scenario.name].client_rows
        completed = [b.outcomes.get("completed", 0) for b in batches]
        assert sum(completed) == whole[scenario.name].outcomes["completed"]


def test_without_a_client_nobody_knows_batches(tmp_path: Path) -> None:
    traces.write_capture(tmp_path / "capture", run=traces.run_info())
    with pytest.raises(CodesignError, match=r"name its results\.json with --results"):
        overview(tmp_path, split=by_batch)
