"""A run with arms against what its results and captures hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.analysis.accounts import Accounts
from vllm_codesign.analysis.arms import Comparison, _shares, compare, plain
from vllm_codesign.analysis.overview import overview
from vllm_codesign.analysis.stats import Stat, summarize
from vllm_codesign.model.bench import ArmRepeat, ArmsRun
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.semconv import Part
from vllm_codesign.store.capture import create


def accountable() -> list[RequestTrace]:
    """The usual 40 requests, by the host's clock as well."""
    found = traces.traces()
    for trace in found:
        trace.root.attributes[S.MONOTONIC.key] = trace.root.start_ns - traces.EPOCH_NS + 1_000
    return found


def arms_run(folder: Path, headers_ms: dict[str, Sequence[float]]) -> ArmsRun:
    """Arms whose repeats' clients waited so much longer for the headers."""
    servers = []
    for arm, more in headers_ms.items():
        for repeat, extra in enumerate(more, start=1):
            where = folder / arm / str(repeat)
            capture = traces.write_capture(where / "capture-store", accountable())
            bench = traces.bench_run()
            rows = [
                row.model_copy(
                    update={
                        "http_overhead_ms": row.http_overhead_ms + extra,
                        "total_ms": row.total_ms + extra,
                    }
                )
                for row in bench.requests
            ]
            bench = bench.model_copy(update={"requests": rows, "capture": str(capture.path)})
            (where / "results.json").write_text(bench.model_dump_json())
            servers.append(
                ArmRepeat(
                    arm=arm,
                    repeat=repeat,
                    folder=f"{arm}/{repeat}",
                    capture=bench.capture,
                    started_unix_ns=traces.EPOCH_NS,
                    finished_unix_ns=traces.EPOCH_NS + 1,
                )
            )
    run = ArmsRun(
        tool_version="0.1.0",
        model="tiny",
        server_flags=[],
        warm_up=1,
        arms=list(headers_ms),
        repeats=3,
        started_unix_ns=traces.EPOCH_NS,
        scenarios=traces.bench_run().scenarios,
        servers=servers,
    )
    (folder / "results.json").write_text(run.model_dump_json())
    return run


def figures(comparison: Comparison, scenario: str, arm: str):
    (compared,) = [each for each in comparison.scenarios if each.scenario == scenario]
    (found,) = [each for each in compared.arms if each.arm == arm]
    return found


def test_a_difference_and_its_interval(tmp_path: Path) -> None:
    run = arms_run(tmp_path, {"hbm": (0.0, 1.0, 0.5), "lmcache": (40.0, 41.0, 40.4)})
    comparison = compare(run, tmp_path)

    assert comparison.base == "hbm"
    assert comparison.servers == {"hbm": 3, "lmcache": 3}
    assert comparison.lossy == ()
    hbm = figures(comparison, "single", "hbm")
    lmcache = figures(comparison, "single", "lmcache")
    share = [100 * (15.1 + extra) / (156.14 + extra) for extra in (0.0, 1.0, 0.5)]
    slower = [100 * (15.1 + extra) / (156.14 + extra) for extra in (40.0, 41.0, 40.4)]
    assert hbm.cpu.mean == pytest.approx(sum(share) / 3)
    assert (hbm.n, hbm.cpu.n, hbm.delta) == (60, 60, None)
    assert lmcache.delta.value == pytest.approx((sum(slower) - sum(share)) / 3)
    assert not lmcache.delta.within_noise
    assert lmcache.delta.drawn == "repeats"


def test_equal_arms_are_within_noise(tmp_path: Path) -> None:
    run = arms_run(tmp_path, {"hbm": (0.0, 3.0, 1.0), "lmcache": (1.0, 0.0, 3.5)})
    comparison = compare(run, tmp_path)

    for scenario in ("single", "conc4"):
        delta = figures(comparison, scenario, "lmcache").delta
        assert delta.low < 0 < delta.high
        assert delta.within_noise
    document = json.loads(json.dumps(plain(comparison)))
    assert document["scenarios"][0]["arms"][1]["delta"]["within_noise"] is True
    assert document["scenarios"][0]["arms"][0]["delta"] is None


def test_the_accounting_is_analyzes_own(tmp_path: Path) -> None:
    """Three equal servers: the shares are those of one."""
    comparison = compare(arms_run(tmp_path, {"hbm": (0.0, 0.0, 0.0)}), tmp_path)
    shares = figures(comparison, "conc4", "hbm").shares
    one = overview(tmp_path / "hbm" / "1")
    (found,) = [s.accounts for s in one.tables.scenarios if s.name == "conc4"]

    assert shares.n == 3 * found.n == 60
    assert shares.exposed == pytest.approx(100 * found.exposed.mean / found.total.mean)
    assert shares.unexplained == pytest.approx(
        100 * found.parts["unattributed"].mean / found.total.mean
        if "unattributed" in found.parts
        else 0
    )
    # Recorded at level `request`: no device time is known, and none is claimed to be 0.
    assert (shares.device, shares.queue_capacity, shares.kv_load) == (None, None, None)


def accounts(n: int, total: float, parts: dict[Part, float], stepwise: bool = True) -> Accounts:
    def each(value: float) -> Stat:
        stat = summarize([value] * n)
        assert stat is not None
        return stat

    return Accounts(
        n=n,
        parts={part.value: each(value) for part, value in parts.items()},
        exposed=each(parts[Part.IPC]),
        hidden=each(0),
        total=each(total),
        device=each(parts[Part.DEVICE_DECODE]),
        ttft=None,
        ttft_without_host=None,
        ttft_parts={},
        bottlenecks={},
        queued={},
        stepwise=stepwise,
        fleet=None,
    )


def test_servers_count_by_their_requests_time() -> None:
    parts = {Part.IPC: 10.0, Part.DEVICE_DECODE: 60.0, Part.QUEUE_CAPACITY: 5.0}
    one = accounts(2, 100.0, {**parts, Part.KV_LOAD: 20.0, Part.UNATTRIBUTED: 5.0})
    other = accounts(6, 200.0, {**parts, Part.UNATTRIBUTED: 125.0})
    shares = _shares([one, other])

    assert shares is not None
    assert shares.n == 8
    whole = 2 * 100 + 6 * 200
    assert shares.exposed == pytest.approx(100 * 80 / whole)
    assert shares.device == pytest.approx(100 * 480 / whole)
    assert shares.queue_capacity == pytest.approx(100 * 40 / whole)
    assert shares.kv_load == pytest.approx(100 * 40 / whole)
    assert shares.unexplained == pytest.approx(100 * (10 + 750) / whole)
    mixed = _shares([one, accounts(6, 200.0, parts, stepwise=False)])
    assert mixed is not None
    assert mixed.device is None
    assert _shares([]) is None


def test_failed_requests_are_counted_and_in_no_figure(tmp_path: Path) -> None:
    run = arms_run(tmp_path, {"hbm": (0.0,)})
    path = tmp_path / "hbm/1/results.json"
    bench = json.loads(path.read_text())
    for row in bench["requests"][:3]:
        row.update(status="error", error="timeout", total_ms=None)
    path.write_text(json.dumps(bench))
    found = figures(compare(run, tmp_path), "single", "hbm")

    assert (found.n, found.errors, found.cpu.n) == (20, {"timeout": 3}, 17)


def test_a_server_without_a_capture_is_named(tmp_path: Path) -> None:
    run = arms_run(tmp_path, {"hbm": (0.0, 0.0)})
    servers = [run.servers[0], run.servers[1].model_copy(update={"capture": None})]
    comparison = compare(run.model_copy(update={"servers": servers}), tmp_path)

    assert comparison.notes == (
        "hbm/2 is not in the accounting: the server left no capture; codesign doctor tells why, "
        "and so may server.log there",
    )
    found = figures(comparison, "single", "hbm")
    assert (found.cpu.n, found.shares.n) == (40, 20)
    empty = create(tmp_path / "empty", traces.run_info())
    servers = [server.model_copy(update={"capture": str(empty.path)}) for server in run.servers]
    comparison = compare(run.model_copy(update={"servers": servers}), tmp_path)
    assert len(comparison.notes) == 2
    assert figures(comparison, "single", "hbm").shares is None


def test_a_folder_that_was_moved_is_read(tmp_path: Path) -> None:
    run = arms_run(tmp_path / "old", {"hbm": (0.0,)})
    shutil.move(tmp_path / "old", tmp_path / "new")
    comparison = compare(run, tmp_path / "new")

    assert comparison.notes == ()
    assert figures(comparison, "single", "hbm").shares is not None


def test_losses_are_said_with_their_server(tmp_path: Path) -> None:
    run = arms_run(tmp_path, {"hbm": (0.0,)})
    capture = overview(tmp_path / "hbm/1").capture
    capture.update(lambda info: info.model_copy(update={"drops": {"worker": 7}}))

    assert compare(run, tmp_path).lossy == ("hbm/1: 7 records were lost (worker 7)",)


def test_analyze_names_the_servers_to_choose_from(tmp_path: Path) -> None:
    arms_run(tmp_path, {"hbm": (0.0,)})

    with pytest.raises(CodesignError, match=r"of several arms: name one of them, as .*hbm/1"):
        overview(tmp_path)
    assert overview(tmp_path / "hbm/1").results == tmp_path / "hbm/1/results.json"
