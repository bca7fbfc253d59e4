"""`store push` and `analyze --from clickhouse:` over HTTP, to a stand-in that runs chdb.

What the stand-in cannot show is ClickHouse's own HTTP server: forms, limits, its errors as sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import many_spans, traces
from vllm_codesign.cli.main import main
from vllm_codesign.store.capture import Capture, create

pytest.importorskip("chdb.session", reason="needs chdb, ClickHouse in a wheel")

from tests.support.clickhouse import Chdb, HttpClickHouse


@pytest.fixture(scope="module")
def chdb() -> Iterator[Chdb]:
    session = Chdb()
    yield session
    session.close()


@pytest.fixture
def server(chdb: Chdb) -> Iterator[HttpClickHouse]:
    chdb.run("DROP DATABASE IF EXISTS otel")
    with HttpClickHouse(chdb) as running:
        yield running


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    found = create(tmp_path / "capture-store", traces.run_info(level="step"))
    many_spans.write(many_spans.generate(4_000, servers=1), found.traces)
    return found


def push(server: HttpClickHouse, capture: Capture, *more: str) -> int:
    # The spans are of 2025, and a table drops what is older than it keeps.
    return main(["store", "push", server.url(), str(capture.path), *more])


def spans_in(chdb: Chdb) -> int:
    return int(chdb.rows("SELECT toInt64(count()) AS n FROM otel.otel_traces")[0]["n"])


def test_a_capture_pushed_is_analyzed_as_the_capture_is(
    server: HttpClickHouse, chdb: Chdb, capture: Capture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(server, capture, "--create", "--days", "3650", "--json") == 0
    pushed = json.loads(capsys.readouterr().out)
    assert (pushed["segments"], pushed["present"]) == (1, 0)
    assert pushed["rows"] == spans_in(chdb) > 3_000
    assert main(["analyze", str(capture.path), "--json"]) == 0
    local = json.loads(capsys.readouterr().out)
    assert main(["analyze", "--from", server.url(), "--json"]) == 0
    there = json.loads(capsys.readouterr().out)
    (ours,), (theirs,) = local["scenarios"], there["scenarios"]
    for key in ("outcomes", "client_rows"):
        assert theirs[key] == ours[key]
    for phase, stat in ours["server"].items():
        assert theirs["server"][phase] == pytest.approx(stat, rel=1e-9), phase
    for part, stat in ours["accounting"]["parts"].items():
        assert theirs["accounting"]["parts"][part] == pytest.approx(stat, rel=1e-9), part
    assert theirs["accounting"]["fleet"] == ours["accounting"]["fleet"]
    assert theirs["accounting"]["bottlenecks"] == ours["accounting"]["bottlenecks"]
    assert there["kv"]["sessions"] == local["kv"]["sessions"]
    assert there["finding"] == local["finding"]
    # Every parameter came beside the query, and none within it.
    asked = [seen for seen in server.seen if "since" in seen.parameters]
    assert len(asked) == 11
    assert all(seen.parameters["table"] == "otel_traces" for seen in asked)


def test_the_tables_are_printed_and_what_is_not_in_them_is_said(
    server: HttpClickHouse, capture: Capture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(server, capture, "--create", "--days", "3650") == 0
    assert main(["analyze", "--from", server.url(), "--service", "vllm"]) == 0
    printed = capsys.readouterr().out
    for expected in ("device.gap.schedule", "device (throughput, per fleet)", "not in SQL: parts"):
        assert expected in printed


def test_a_second_push_sends_nothing(
    server: HttpClickHouse, chdb: Chdb, capture: Capture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(server, capture, "--create", "--days", "3650") == 0
    before = spans_in(chdb)
    assert push(server, capture) == 0
    assert "1 were there already" in capsys.readouterr().out
    assert spans_in(chdb) == before


def test_rows_that_came_twice_count_once(
    server: HttpClickHouse, chdb: Chdb, capture: Capture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(server, capture, "--create", "--days", "3650") == 0
    capsys.readouterr()
    assert main(["analyze", "--from", server.url(), "--json"]) == 0
    once = capsys.readouterr().out
    chdb.run("INSERT INTO otel.otel_traces SELECT * FROM otel.otel_traces")
    assert main(["analyze", "--from", server.url(), "--json"]) == 0
    assert capsys.readouterr().out == once


def test_scenarios_come_from_a_clients_results(
    server: HttpClickHouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = traces.write_capture(tmp_path / "capture-store")
    results = tmp_path / "results.json"
    results.write_text(traces.bench_run().model_dump_json())
    assert push(server, capture, "--create", "--days", "3650") == 0
    capsys.readouterr()
    assert main(["analyze", str(capture.path), "--results", str(results), "--json"]) == 0
    local = json.loads(capsys.readouterr().out)
    asked = ["analyze", "--from", server.url(), "--results", str(results), "--json"]
    assert main(asked) == 0
    there = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in there["scenarios"]] == ["single", "conc4"]
    assert there["finding"] == local["finding"]
    for ours, theirs in zip(local["scenarios"], there["scenarios"], strict=True):
        assert theirs["client"] == ours["client"]
        assert theirs["untraced"] == 0
        for phase, stat in ours["server"].items():
            assert theirs["server"][phase] == pytest.approx(stat, rel=1e-9), phase
    assert main([*asked, "--scenario", "nope"]) == 1
    assert "no scenario 'nope' here; there is: single, conc4" in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_nothing_is_made_unless_asked_for(
    server: HttpClickHouse, chdb: Chdb, capture: Capture, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "store", "push", server.url(), str(capture.path))
    assert "no database 'otel' there" in said
    chdb.run("CREATE DATABASE otel")
    said = refused(capsys, "store", "push", server.url(), str(capture.path))
    assert "no table otel.otel_traces there" in said
    assert "--create" in said
    assert chdb.rows("SELECT name FROM system.tables WHERE database = 'otel'") == []


def test_a_wrong_password_an_old_schema_and_an_empty_range_have_a_line_each(
    server: HttpClickHouse,
    chdb: Chdb,
    capture: Capture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.password = "right"
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "wrong")
    said = refused(capsys, "analyze", "--from", server.url())
    assert "does not let 'default' in" in said
    assert "wrong" not in said.replace("wrong password", "")
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "right")
    assert push(server, capture, "--create", "--days", "3650") == 0
    capsys.readouterr()
    said = refused(capsys, "analyze", "--from", server.url(), "--since", "1h")
    assert "no request in this range" in said
    chdb.run("ALTER TABLE otel.otel_traces DROP COLUMN ScopeName")
    said = refused(capsys, "analyze", "--from", server.url())
    assert "is not the table of the Collector's ClickHouse exporter" in said
    assert "it lacks ScopeName" in said


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "analyze", "--from", "clickhouse:http://127.0.0.1:9/otel")
    assert "cannot reach ClickHouse at http://127.0.0.1:9: Connection refused" in said


def test_the_statement_that_makes_the_table_is_shown(
    chdb: Chdb, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "clickhouse:http://127.0.0.1:9/otel?table=spans"
    assert main(["store", "push", url, "--ddl", "--days", "7"]) == 0
    printed = capsys.readouterr().out
    chdb.run("CREATE DATABASE IF NOT EXISTS shown")
    chdb.run("USE shown")
    chdb.run("DROP TABLE IF EXISTS spans")
    chdb.run(printed)
    (row,) = chdb.rows("SELECT partition_key AS p FROM system.tables WHERE name = 'spans'")
    assert row["p"] == "toDate(Timestamp)"
