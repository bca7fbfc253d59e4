"""ClickHouse, DuckDB and the analysis in Python give the same cell for the same spans."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import many_spans
from tests.support.clickhouse import Chdb, in_chdb
from vllm_codesign.accounting import timelines
from vllm_codesign.analysis import kv, tables
from vllm_codesign.analysis.sql import query as queries
from vllm_codesign.analysis.sql.decomposition import decompose
from vllm_codesign.analysis.sql.engines import ClientRows, Engine, over
from vllm_codesign.analysis.sql.query import Parameters
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.reader import read_steps, read_traces

RELATIVE = 1e-9
"""Of floats: `idle_s` is one, a quotient of sums beyond 64 bits. All other cells are integers or
text and have to be equal."""


def clients(made: many_spans.Many) -> ClientRows:
    """As of a results.json; every fifth says nothing of its headers."""
    return [
        (f"{trace_id:032x}", scenario, number % 5 * 1_000_000 - 1)
        for number, (trace_id, scenario) in enumerate(sorted(made.scenario_of.items()))
    ]


def answers(engine: Engine, asked: Parameters) -> dict[str, list[dict[str, Any]]]:
    (found,) = engine.rows("range", asked)
    wide = asked.around(found["longest_ns"])
    return {name: engine.rows(name, wide) for name in queries.NAMES}


def assert_same_cells(one: Engine, other: Engine, asked: Parameters) -> int:
    """The number of cells."""
    cells = 0
    ours, theirs = answers(one, asked), answers(other, asked)
    for name in queries.NAMES:
        assert len(ours[name]) == len(theirs[name]) > 0, name
        for row, its in zip(ours[name], theirs[name], strict=True):
            assert row.keys() == its.keys()
            for column, value in row.items():
                cells += 1
                where = (name, column, row, its)
                assert type(value) is type(its[column]), where
                if isinstance(value, float):
                    assert math.isclose(value, its[column], rel_tol=RELATIVE), where
                else:
                    assert value == its[column], where
    return cells


def compare(chdb: Chdb, spans: int, folder: Path) -> int:
    made = many_spans.generate(spans)
    many_spans.write(made, folder / "traces")
    rows = clients(made)
    duckdb, clickhouse = over(Capture(folder), rows), in_chdb(chdb, folder / "traces", rows)
    begun = sorted(s.start_ns for s, _ in made.spans if s.kind == "server")
    cells = assert_same_cells(duckdb, clickhouse, Parameters())
    # A third of the time, and the servers by name.
    part = Parameters(
        since=begun[len(begun) // 3], until=begun[2 * len(begun) // 3], service="vllm"
    )
    (whole,) = duckdb.rows("range", Parameters())
    (some,) = duckdb.rows("range", part)
    assert 0 < some["requests"] < whole["requests"]
    return cells + assert_same_cells(duckdb, clickhouse, part)


def test_clickhouse_and_duckdb_agree_on_every_cell(chdb: Chdb, tmp_path: Path) -> None:
    assert compare(chdb, 50_000, tmp_path) > 2_000


@pytest.mark.full
@pytest.mark.timeout(1_800)
def test_they_agree_over_a_million_spans(chdb: Chdb, tmp_path: Path) -> None:
    assert compare(chdb, 1_130_000, tmp_path) > 2_000


def comparable(scenario: tables.Scenario) -> dict[str, Any]:
    """What both ways can say of a scenario."""
    accounts = scenario.accounts
    assert accounts is not None
    assert accounts.fleet is not None
    engines = tuple(
        replace(engine, idle_ns=dict(engine.idle_ns), strip=()) for engine in accounts.fleet.engines
    )
    accounts = replace(
        accounts,
        ttft_parts={},
        ttft_without_host=None,
        pool_threads=None,
        plans_ahead=None,
        fleet=replace(accounts.fleet, engines=engines),
    )
    return asdict(replace(scenario, slowest=(), client={}, accounts=accounts))


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys(), key=str)
        return [d for k in keys for d in differences(one.get(k), other.get(k), f"{at}.{k}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for n, (a, b) in pairs for d in differences(a, b, f"{at}[{n}]")]
    if isinstance(one, float) and isinstance(other, float):
        # Milliseconds are summed in another order here.
        same = math.isclose(one, other, rel_tol=RELATIVE, abs_tol=RELATIVE)
    else:
        same = one == other
    return [] if same else [f"{at}: {one} is not {other}"]


def test_the_queries_say_what_the_analysis_says(tmp_path: Path) -> None:
    made = many_spans.generate(30_000, servers=1)
    many_spans.write(made, tmp_path / "traces")
    capture = Capture(tmp_path)
    engines = timelines(read_steps(capture))
    caches = kv.Gathered()
    expected = tables.build(caches.watch(read_traces(capture)), None, engines)
    assert expected.differing == 0
    found = decompose(over(capture, []), Parameters())
    ((_, alone),) = found.fleets[tables.NO_CLIENT]
    (scenario,) = found.tables.scenarios
    assert scenario.accounts is not None
    assert scenario.accounts.fleet == alone
    expected_rows = [comparable(one) for one in expected.scenarios]
    assert differences(expected_rows, [comparable(scenario)]) == []
    assert differences(asdict(caches.summary()), asdict(found.kv)) == []
    assert found.tables.outlived == expected.outlived > 0


def test_a_range_leaves_out_what_began_outside_it(tmp_path: Path) -> None:
    made = many_spans.generate(5_000, servers=1)
    many_spans.write(made, tmp_path / "traces")
    begun = sorted(s.start_ns for s, _ in made.spans if s.kind == "server")
    (found,) = over(Capture(tmp_path), []).rows("range", Parameters(begun[10], begun[20]))
    outlived = [s for s, _ in made.spans if s.links and s.name == "engine.request"]
    beside = [s for s in outlived if begun[10] <= s.start_ns < begun[20]]
    assert found["requests"] == 10 + len(beside)
    assert found["first_ns"] == begun[10]


@pytest.mark.parametrize("name", queries.NAMES)
def test_every_query_binds_what_it_is_asked_about(name: str) -> None:
    text = queries.text(name)
    assert "-- include" not in text
    assert {"table", "since", "until", "service"} <= queries.parameters_of(text)
    assert "{" not in queries.for_duckdb(text)
