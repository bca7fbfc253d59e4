"""Arms: which server is started when and how, and what is left when it goes wrong."""

import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support import fake_vllm_command
from vllm_codesign.bench import arms_file, results
from vllm_codesign.bench.arms import BUILT_IN, ArmsPlan, execute_arms
from vllm_codesign.bench.own_server import OwnServer, execute_with
from vllm_codesign.bench.run import Plan
from vllm_codesign.model.bench import BenchRun, Scenario
from vllm_codesign.model.errors import CodesignError

ROOT = Path(__file__).parents[2]
PLAN = Plan((Scenario(name="s", concurrency=2, prompt_tokens=20, max_tokens=3, repeats=2),))


@pytest.fixture
def own(tmp_path, monkeypatch):
    for name in ("CODESIGN_STORE", "VLLM_PLUGINS", "FAKE_LMCACHE", "FAKE_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAKE_VLLM", "capture")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    server = OwnServer("tiny", ("--enforce-eager",), python=str(fake_vllm_command.write(bin_)))
    fake_vllm_command.write_lmcache(bin_)
    return server


def plan(own: OwnServer, *arms: str, repeats: int = 1) -> ArmsPlan:
    chosen = arms_file.select(arms or ("hbm", "lmcache"), None)
    return ArmsPlan(own, PLAN, chosen, repeats, lmcache_gib=2.5)


def of(out: Path, arm: str, repeat: int) -> BenchRun:
    run = results.read(out / arm / str(repeat) / "results.json")
    assert run is not None
    return run


def running(folder: Path) -> list[str]:
    """Command lines of live processes that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_the_order_is_turned_round_every_other_time(own):
    order = [(repeat, arm.name) for repeat, arm in plan(own, repeats=3).order()]

    assert order == [
        *[(1, "hbm"), (1, "lmcache")],
        *[(2, "lmcache"), (2, "hbm")],
        *[(3, "hbm"), (3, "lmcache")],
    ]


def test_each_server_has_its_folder_and_the_run_names_them(own, tmp_path):
    out = tmp_path / "out"
    run = execute_arms(plan(own, repeats=2), out, (lines := []).append)

    assert [(s.arm, s.repeat, s.folder) for s in run.servers] == [
        ("hbm", 1, "hbm/1"),
        ("lmcache", 1, "lmcache/1"),
        ("lmcache", 2, "lmcache/2"),
        ("hbm", 2, "hbm/2"),
    ]
    assert results.read_arms(out / "results.json") == run
    for server in run.servers:
        one = of(out, server.arm, server.repeat)
        assert [row.status for row in one.requests] == ["ok"] * 4
        assert one.capture == server.capture
        assert str(out / server.folder / "capture-store") in server.capture
    assert len({server.capture for server in run.servers}) == 4
    ends = [(s.started_unix_ns, s.finished_unix_ns) for s in run.servers]
    assert all(a[1] <= b[0] for a, b in pairwise(ends))
    assert f"arm lmcache, repeat 2 of 2, into {out / 'lmcache/2'}" in lines
    assert running(tmp_path / "bin") == []


@pytest.mark.parametrize(("device", "engine_driven"), [("cpu", True), ("cuda", False)])
def test_the_studys_settings(own, tmp_path, monkeypatch, device, engine_driven):
    monkeypatch.setenv("FAKE_DEVICE", device)
    out = tmp_path / "out"
    execute_arms(plan(own), out, lambda _line: None)

    hbm = of(out, "hbm", 1).server_command
    assert "--kv-transfer-config" not in hbm
    command = of(out, "lmcache", 1).server_command
    config = json.loads(command[command.index("--kv-transfer-config") + 1])
    assert {k: config[k] for k in ("kv_connector", "kv_role")} == {
        "kv_connector": "LMCacheMPConnector",
        "kv_role": "kv_both",
    }
    for each in (hbm, command):
        assert each[-2:] == ["--enable-prefix-caching", "--enforce-eager"]
    cache = (out / "lmcache/1/lmcache.log").read_text().splitlines()[0].split()
    assert cache[1] == "server"
    assert cache[cache.index("--port") + 1] == str(
        config["kv_connector_extra_config"]["lmcache.mp.port"]
    )
    assert cache[cache.index("--chunk-size") + 1] == "256"
    assert cache[cache.index("--l1-size-gb") + 1] == "2.5"
    assert ("engine_driven" in cache) is engine_driven


def test_both_arms_hash_alike(own, tmp_path, monkeypatch):
    """Whatever the environment says: LMCache finds nothing where hashes differ, and metrics of
    the arms are told apart by their resource."""
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=gpu,codesign.arm=of-the-shell")
    seen = []

    def note(server, _plan, folder, _progress):
        seen.append((folder.parent.name, dict(server.env)))
        raise KeyboardInterrupt

    monkeypatch.setattr("vllm_codesign.bench.arms.execute_with", note)
    for arm in ("hbm", "lmcache"):
        with pytest.raises(KeyboardInterrupt):
            execute_arms(plan(own, arm), tmp_path / f"out-{arm}", lambda _line: None)

    env = {"PYTHONHASHSEED": "0", "LMCACHE_TRACK_USAGE": "false"}
    name = "OTEL_RESOURCE_ATTRIBUTES"
    assert seen == [
        ("hbm", {**env, name: "team=gpu,codesign.arm=hbm"}),
        ("lmcache", {**env, name: "team=gpu,codesign.arm=lmcache"}),
    ]


def test_the_servers_own_environment_wins(own, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "die")
    server = OwnServer("tiny", python=own.python, env={"FAKE_VLLM": ""})

    assert len(execute_with(server, PLAN, tmp_path / "out", lambda _line: None).requests) == 4


def test_a_secret_flag_is_used_and_written_nowhere(own, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "capture,args")
    keyed = OwnServer("tiny", ("--api-key", "s3cret-key"), own.python)
    out = tmp_path / "out"
    run = execute_arms(plan(keyed, "hbm"), out, (lines := []).append)

    assert run.server_flags == ["--api-key", "..."]
    assert "key of 10 letters" in (out / "hbm/1/server.log").read_text()
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"s3cret" not in written
    assert not any("s3cret" in line for line in lines)
    assert execute_arms(plan(keyed, "hbm"), out, lines.append) == run

    other = OwnServer("tiny", ("--api-key", "s3cret-key", "--x"), own.python)
    with pytest.raises(CodesignError, match="other server flags") as error:
        execute_arms(plan(other, "hbm"), out, lines.append)
    assert "s3cret" not in str(error.value)


def test_a_single_arm_needs_nothing_of_the_other(own, tmp_path):
    (Path(own.python).parent / "lmcache").unlink()
    run = execute_arms(plan(own, "hbm", repeats=2), tmp_path / "out", lambda _line: None)

    assert [server.folder for server in run.servers] == ["hbm/1", "hbm/2"]
    assert run.lmcache_gib is None


def test_a_missing_lmcache_is_told_before_anything_is_started(own, tmp_path):
    (Path(own.python).parent / "lmcache").unlink()

    with pytest.raises(CodesignError, match=r"install vllm-codesign\[lmcache\].*there is no comma"):
        execute_arms(plan(own), tmp_path / "out", (lines := []).append)
    assert lines == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flag",
    [
        '--kv-transfer-config={"api_key": "s3cret"}',
        "--kv_transfer_config",
        "--kv-transfer-config.kv_role",
        "--no-enable-prefix-caching",
        "--port",
    ],
)
def test_what_the_arms_set_is_not_the_users(own, tmp_path, flag):
    own = OwnServer("tiny", (flag,), own.python)

    with pytest.raises(CodesignError, match="leave the flag out") as error:
        execute_arms(plan(own), tmp_path / "out", (lines := []).append)
    assert lines == []
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "at", ["starting LMCache", "LMCache is up", "starting vLLM", "vLLM is up", "s 1/2", "s 2/2"]
)
def test_an_interrupt_leaves_no_process(own, tmp_path, at):
    """Wherever it comes; `at` is the line of progress that it comes with."""
    seen = []

    def interrupt(line: str) -> None:
        if line.startswith(at):
            seen.extend(running(tmp_path / "bin"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_arms(plan(own, "lmcache"), tmp_path / "out", interrupt)

    assert seen
    assert running(tmp_path / "bin") == []


def test_a_real_interrupt_leaves_no_process(own, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "slow,child")
    code = (
        "import signal; from pathlib import Path\n"
        # A shell starts its background jobs with the interrupt ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tests.bench.test_arms import PLAN\n"
        "from vllm_codesign.bench.arms import BUILT_IN, ArmsPlan, execute_arms\n"
        "from vllm_codesign.bench.own_server import OwnServer\n"
        f"own = OwnServer('tiny', python={own.python!r})\n"
        f"execute_arms(ArmsPlan(own, PLAN, BUILT_IN[1:]), Path({str(tmp_path / 'out')!r}))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert parent.stderr is not None
    for line in parent.stderr:
        if line.startswith("starting vLLM"):
            break
    log = tmp_path / "out/lmcache/1/server.log"
    deadline = time.monotonic() + 20
    while not (log.exists() and "child" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(log.read_text().split("child ")[1].split()[0])
    parent.send_signal(signal.SIGINT)
    parent.stderr.read()
    parent.wait(30)
    parent.stderr.close()

    assert parent.returncode != 0
    assert running(tmp_path / "bin") == []
    assert not alive(child)


def test_an_interrupted_repeat_is_made_anew_and_done_ones_are_kept(own, tmp_path):
    out = tmp_path / "out"
    begun = []

    def interrupt(line: str) -> None:
        begun.append(line)
        if line.startswith("s 1/2") and any("repeat 2" in each for each in begun):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_arms(plan(own, "hbm", repeats=2), out, interrupt)
    half = results.read_arms(out / "results.json")
    assert [server.folder for server in half.servers] == ["hbm/1"]
    first, cut = of(out, "hbm", 1), of(out, "hbm", 2)

    whole = execute_arms(plan(own, "hbm", repeats=2), out, (lines := []).append)

    assert lines[0] == f"{out / 'results.json'}: 1 servers are done, going on after them"
    assert [server.folder for server in whole.servers] == ["hbm/1", "hbm/2"]
    assert of(out, "hbm", 1) == first
    anew = of(out, "hbm", 2)
    assert len(anew.requests) == 4
    assert anew.capture is not None
    assert not {r.trace_id for r in anew.requests} & {r.trace_id for r in cut.requests}


def test_a_complete_run_starts_nothing_and_more_repeats_are_added(own, tmp_path):
    out = tmp_path / "out"
    first = execute_arms(plan(own, "hbm"), out, lambda _line: None)

    assert execute_arms(plan(own, "hbm"), out, (lines := []).append) == first
    assert lines == [f"{out / 'results.json'} is complete: nothing to do"]
    more = execute_arms(plan(own, "hbm", repeats=2), out, lambda _line: None)
    assert (more.repeats, len(more.servers)) == (2, 2)
    assert more.servers[:1] == first.servers
    with pytest.raises(CodesignError, match=r"more repeats \(2, not 1\)"):
        execute_arms(plan(own, "hbm"), out, lambda _line: None)


def test_another_run_is_refused_before_a_server_starts(own, tmp_path):
    out = tmp_path / "out"
    execute_arms(plan(own, "hbm"), out, lambda _line: None)
    other = OwnServer("tiny", ("--x",), own.python)

    for asked, says in (
        (plan(own), "other arms"),
        (plan(other, "hbm"), "other server flags"),
        (ArmsPlan(own, Plan(()), BUILT_IN[:1], 1), "other scenarios"),
    ):
        with pytest.raises(CodesignError, match=says):
            execute_arms(asked, out, (lines := []).append)
        assert lines == []


def test_runs_with_and_without_arms_do_not_mix(own, tmp_path):
    out = tmp_path / "out"
    run = execute_arms(plan(own, "hbm"), out, lambda _line: None)
    with pytest.raises(CodesignError, match="holds a run with --arm"):
        results.read(out / "results.json")

    shutil.copy(out / "hbm/1/results.json", out / "results.json")
    with pytest.raises(CodesignError, match="holds a run without --arm"):
        execute_arms(plan(own, "hbm"), out, lambda _line: None)
    assert run.servers


def test_a_folder_of_somebody_else_is_not_removed(own, tmp_path):
    mine = tmp_path / "hbm" / "1" / "thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("")

    with pytest.raises(CodesignError, match=r"hbm exists and there is no .*--out"):
        execute_arms(plan(own), tmp_path, lambda _line: None)
    assert mine.exists()


def test_an_lmcache_that_does_not_start(own, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LMCACHE", "die")

    with pytest.raises(CodesignError, match=r"LMCache ended while starting.*not enough memory"):
        execute_arms(plan(own, "lmcache"), tmp_path / "out", lambda _line: None)


def test_an_lmcache_that_ends_makes_no_repeat(own, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LMCACHE", "short")
    out = tmp_path / "out"

    with pytest.raises(CodesignError, match="LMCache ended during the run"):
        execute_arms(plan(own, "lmcache"), out, lambda _line: None)
    assert results.read_arms(out / "results.json").servers == []
    assert running(tmp_path / "bin") == []
