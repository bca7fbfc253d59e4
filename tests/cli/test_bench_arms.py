"""`codesign bench --arm`: options, the table and its JSON."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support import fake_vllm_command
from tests.support.scenario_file import SCENARIO_FILE
from vllm_codesign.analysis.arms import ArmFigures, Compared, Comparison, Shares, plain
from vllm_codesign.analysis.arms_sheet import remarks
from vllm_codesign.analysis.bootstrap import Interval
from vllm_codesign.analysis.stats import summarize
from vllm_codesign.bench.own_server import OwnServer
from vllm_codesign.cli.arms_table import arms_table
from vllm_codesign.cli.bench import command
from vllm_codesign.model.errors import CodesignError


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter with a vLLM and an LMCache of ours, which `--model` is served by."""
    for name in ("CODESIGN_STORE", "VLLM_PLUGINS", "FAKE_LMCACHE", "FAKE_DEVICE", "FAKE_VLLM"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "mine.toml").write_text(SCENARIO_FILE)
    path = fake_vllm_command.write(tmp_path)
    fake_vllm_command.write_lmcache(tmp_path)
    own = functools.partial(OwnServer, python=str(path))
    monkeypatch.setattr("vllm_codesign.cli.bench.OwnServer", own)
    return path


def bench(tmp_path: Path, *arguments: str):
    file = ("--scenarios", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out"))
    return CliRunner().invoke(command, [*file, *arguments])


def test_two_arms_print_their_comparison(python, tmp_path):
    result = bench(
        tmp_path, "--model", "m", "--arm", "hbm", "--arm", "lmcache", "--arm", "hbm", "--", "--x"
    )

    assert result.exit_code == 0, result.output
    for repeat in (1, 2, 3):
        for arm in ("hbm", "lmcache"):
            assert f"arm {arm}, repeat {repeat} of 3" in result.stderr
            one = json.loads((tmp_path / "out" / arm / str(repeat) / "results.json").read_text())
            assert one["server_command"][-1] == "--x"
            assert len(one["requests"]) == 4  # --repeats is of servers, not of batches
    for text in (
        "tiny",
        "against hbm",
        "points [95 %]",
        "unexplained",
        "noise",
        "servers: 3 of hbm, 3 of lmcache",
    ):
        assert text in result.stdout
    assert "hbm/1 is not in the accounting: the server left no capture" in result.stdout
    assert "…" not in result.stdout

    again = bench(
        tmp_path,
        *("--model", "m", "--arm", "hbm", "--arm", "lmcache", "--repeats", "3", "--json"),
        *("--", "--x"),
    )
    assert again.stderr == f"{tmp_path / 'out/results.json'} is complete: nothing to do\n"
    document = json.loads(again.stdout)
    assert (document["base"], document["repeats"]) == ("hbm", 3)
    hbm, lmcache = document["scenarios"][0]["arms"]
    assert (hbm["arm"], hbm["n"], hbm["delta"], hbm["shares"]) == ("hbm", 12, None, None)
    delta = lmcache["delta"]
    assert delta["value"] == pytest.approx(lmcache["cpu"]["mean"] - hbm["cpu"]["mean"])
    assert delta["within_noise"] == (delta["low"] <= 0 <= delta["high"])
    assert delta["drawn"] == "repeats"


def test_one_arm_has_nothing_to_compare_with(python, tmp_path):
    result = bench(tmp_path, "--model", "m", "--arm", "hbm", "--repeats", "1")

    assert result.exit_code == 0, result.output
    assert "noise" not in result.stdout.split("servers:")[0]
    assert "1 servers" in result.stdout


def test_a_server_that_answers_nothing_ends_it(python, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "die")
    result = bench(tmp_path, "--model", "m", "--arm", "hbm")

    assert isinstance(result.exception, CodesignError)
    assert "no such model" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://h", "--arm", "hbm"], "--arm starts its own servers"),
        (["--model", "m", "--arm", "hbm", "--", "--port", "1"], "--port: the address is chosen"),
        (["--model", "m", "--arm", "hbm", "--", "--kv-transfer-config={}"], "the arms set it"),
    ],
)
def test_bad_input_is_one_line(python, tmp_path, arguments, says):
    result = bench(tmp_path, *arguments)

    assert isinstance(result.exception, CodesignError), result.output
    assert says in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_no_lmcache_is_one_line_before_anything_is_started(python, tmp_path):
    (tmp_path / "lmcache").unlink()
    result = bench(tmp_path, "--model", "m", "--arm", "hbm", "--arm", "lmcache")

    assert isinstance(result.exception, CodesignError)
    assert "install vllm-codesign[lmcache], or leave the arm lmcache out" in str(result.exception)
    assert result.stderr == ""
    assert not (tmp_path / "out").exists()


def comparison(delta: Interval | None, shares: Shares | None) -> Comparison:
    figures = {"n": 6, "cpu": summarize([10.0, 12.0]), "errors": {}}
    return Comparison(
        base="hbm",
        servers={"hbm": 3, "lmcache": 3},
        scenarios=(
            Compared(
                "conc4",
                (
                    ArmFigures(arm="hbm", delta=None, shares=shares, **figures),
                    ArmFigures(
                        arm="lmcache",
                        delta=delta,
                        shares=None,
                        **{**figures, "errors": {"timeout": 2}},
                    ),
                ),
            ),
        ),
        lossy=(),
        notes=("lmcache/2 is elsewhere",),
    )


def cells(made: Comparison) -> list[list[str]]:
    table = arms_table(made)
    columns = [list(column.cells) for column in table.columns]
    return [[str(column[row]) for column in columns] for row in range(len(columns[0]))]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-1.5, 2.5, "within noise"), (0.0, 1.0, "within noise"), (0.1, 0.9, "beyond noise")],
)
def test_a_row_says_whether_it_is_noise(low: float, high: float, verdict: str) -> None:
    shares = Shares(6, 20.0, 60.04, 5.0, None, 0.5)
    hbm, lmcache = cells(comparison(Interval(0.5, low, high, "repeats"), shares))

    assert hbm == ["conc4", "hbm", "6", "11.00", "", "", "20.0", "60.0", "5.0", "–", "0.5"]
    delta = f"+0.50 [{low:+.2f}, {high:+.2f}]"
    assert lmcache == ["", "lmcache", "6", "11.00", delta, verdict, *["–"] * 5]


@pytest.mark.parametrize("low", [-1.0, 0.1])
def test_requests_alone_make_no_verdict(low: float) -> None:
    drawn = Interval(0.5, low, 0.9, "requests")
    made = comparison(drawn, None)
    assert cells(made)[1][4:6] == [f"+0.50 [{low:+.2f}, +0.90]", "–"]
    (_, lmcache) = plain(made)["scenarios"][0]["arms"]
    assert (lmcache["delta"]["drawn"], lmcache["delta"]["within_noise"]) == ("requests", None)


def test_what_the_table_does_not_say() -> None:
    over_servers = list(remarks(comparison(Interval(0.5, 0, 1, "repeats"), None)))
    assert over_servers[1].startswith("intervals: bootstrap over servers")
    assert over_servers[2:] == ["conc4, lmcache: 2 failed: timeout", "note: lmcache/2 is elsewhere"]
    assert "Within noise: the interval of the difference holds 0" in over_servers[0]
    over_requests = list(remarks(comparison(Interval(0.5, 0, 1, "requests"), None)))
    assert "noise" not in over_requests[0]
    assert "how one server differs from the next is not in them: --repeats 3" in over_requests[1]
