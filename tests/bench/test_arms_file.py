"""Arms of one's own: what a file may say, what is wrong with it, and what is started for it."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support import fake_vllm_command
from vllm_codesign.bench import arms_file, results
from vllm_codesign.bench.arms import BUILT_IN, ArmsPlan, execute_arms
from vllm_codesign.bench.own_server import OwnServer
from vllm_codesign.bench.placement import Roles, parse_cores, place_roles
from vllm_codesign.bench.run import Plan
from vllm_codesign.model.bench import Arm, Scenario
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.recorder import session

PLAN = Plan((Scenario(name="s", concurrency=1, prompt_tokens=20, max_tokens=3, repeats=1),))


def written(tmp_path, text):
    path = tmp_path / "arms.toml"
    path.write_text(text)
    return path


TWO = """
[[arm]]
name = "base"

[[arm]]
name = "two-threads"
flags = ["--renderer-num-workers", "2"]
env = { OMP_NUM_THREADS = "4" }
cores = { api_server = "0-1", worker = "2" }
nice = { worker = 19 }
"""


def test_a_file_of_two(tmp_path):
    assert arms_file.read_file(written(tmp_path, TWO)) == (
        Arm(name="base"),
        Arm(
            name="two-threads",
            flags=["--renderer-num-workers", "2"],
            env={"OMP_NUM_THREADS": "4"},
            cores={"api_server": "0-1", "worker": "2"},
            nice={"worker": 19},
        ),
    )


def test_names_choose_among_the_files_and_those_built_in(tmp_path):
    path = written(tmp_path, TWO)
    names = [arm.name for arm in arms_file.select(("two-threads", "hbm", "two-threads"), path)]
    assert names == ["two-threads", "hbm"]
    assert arms_file.select((), path) == arms_file.read_file(path)
    assert arms_file.select((), None) == ()
    assert arms_file.select(("lmcache",), None) == BUILT_IN[1:]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "arm is missing: write one"),
        ("arm = 3", "arm is missing: write one"),
        ("[[arm]", "not TOML"),
        ("[[arm]]\nflags = []", r"arm 1: name is missing: add it"),
        ("[[arm]]\nname = 'a b'", r"arm 1 \(a b\): name = 'a b'"),
        ("[[arm]]\nname = '..'", r"arm 1 \(\.\.\): name = '\.\.'"),
        ("[[arm]]\nname = 'a'\nflag = []", r"arm 1 \(a\): flag is not a field: use name, flags"),
        ("[[arm]]\nname = 'a'\nflags = '--x'", r"arm 1 \(a\): flags = '--x'"),
        ("[[arm]]\nname = 'a'\nenv = { A = 1 }", r"arm 1 \(a\): env.A = 1"),
        ("[[arm]]\nname = 'a'\ncores = { gpu = '1' }", r"arm 1 \(a\): cores.gpu"),
        ("[[arm]]\nname = 'a'\nnice = { gpu = 1 }", r"arm 1 \(a\): nice.gpu"),
        ("[[arm]]\nname = 'a'\nnice = { worker = 20 }", r"arm 1 \(a\): nice.worker"),
        ("[[arm]]\nname = 'a'\ncores = { worker = '3-1' }", r"cores.worker: '3-1' begins after"),
        ("[[arm]]\nname = 'a'\ncores = { worker = 'x' }", r"cores.worker: 'x' is no list of"),
        ("[[arm]]\nname = 'a'\n[[arm]]\nname = 'a'", r"arm 2 \(a\): name is taken"),
        ("[[arm]]\nname = 'hbm'", r"arm 1 \(hbm\): name is taken"),
        ("arm = [1]", r"arm 1: not a table: input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, text, says):
    with pytest.raises(CodesignError, match=says) as caught:
        arms_file.read_file(written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_file_and_no_such_arm(tmp_path):
    with pytest.raises(CodesignError, match=r"none.toml: cannot be read \(No such file"):
        arms_file.read_file(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(CodesignError, match="not UTF-8 text"):
        arms_file.read_file(tmp_path / "bytes.toml")
    with pytest.raises(CodesignError, match="no arm is called 'x': choose from hbm, lmcache, base"):
        arms_file.select(("x",), written(tmp_path, TWO))


@pytest.mark.parametrize(
    ("text", "cores"), [("0", {0}), ("0-3,8", {0, 1, 2, 3, 8}), (" 1 , 2-2 ", {1, 2})]
)
def test_cores_are_written_as_the_kernel_does(text, cores):
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "1,", "-1", "1-", "2-1", "a", "1.5"])
def test_cores_that_are_none(text):
    with pytest.raises(ValueError, match=r"is no list of cores|begins after its end"):
        parse_cores(text)


@pytest.fixture
def own(tmp_path, monkeypatch):
    for name in ("CODESIGN_STORE", "VLLM_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAKE_VLLM", "capture")
    for name in ("bin", "other"):
        (tmp_path / name).mkdir()
        fake_vllm_command.write(tmp_path / name)
    python = str(fake_vllm_command.write(tmp_path / "bin"))
    return OwnServer("tiny", ("--enforce-eager",), python=python)


def test_an_arm_has_its_flags_its_environment_and_its_interpreter(own, tmp_path, monkeypatch):
    other = str(fake_vllm_command.write(tmp_path / "other"))
    arms = (
        Arm(name="a", flags=["--x", "1"], env={"PYTHONHASHSEED": "5"}),
        Arm(name="b", python=other),
    )
    out = tmp_path / "out"
    execute_arms(ArmsPlan(own, PLAN, arms, 1), out, lambda _line: None)
    commands = {
        name: results.read(out / name / "1" / "results.json").server_command for name in "ab"
    }
    assert commands["a"][0] == own.python
    assert commands["a"][-4:] == ["--enable-prefix-caching", "--enforce-eager", "--x", "1"]
    assert commands["b"][0] == other
    assert results.read_arms(out / "results.json").definitions == list(arms)

    seen = {}
    monkeypatch.setattr(
        "vllm_codesign.bench.arms.execute_with",
        lambda server, *_rest: seen.update(server.env) or sys.exit(0),
    )
    with pytest.raises(SystemExit):
        execute_arms(ArmsPlan(own, PLAN, arms[:1], 1), tmp_path / "again", lambda _line: None)
    assert seen["PYTHONHASHSEED"] == "5"


def test_secrets_are_used_and_not_written(own, tmp_path):
    arm = Arm(name="a", flags=["--api-key", "s3cret"], env={"HF_TOKEN": "t0ken", "A": "b=c"})
    out = tmp_path / "out"
    execute_arms(ArmsPlan(own, PLAN, (arm,), 1), out, lambda _line: None)
    text = (out / "results.json").read_text()
    assert "s3cret" not in text
    assert "t0ken" not in text
    (written,) = results.read_arms(out / "results.json").definitions
    assert written.flags == ["--api-key", "..."]
    assert written.env == {"HF_TOKEN": "...", "A": "b=c"}


def test_an_arm_that_is_defined_otherwise_is_another_run(own, tmp_path):
    out = tmp_path / "out"
    execute_arms(ArmsPlan(own, PLAN, (Arm(name="a"),), 1), out, lambda _line: None)
    changed = (Arm(name="a", flags=["--x"]),)
    with pytest.raises(CodesignError, match="arms that are defined otherwise"):
        execute_arms(ArmsPlan(own, PLAN, changed, 1), out, lambda _line: None)


def test_what_cannot_work_is_told_before_anything_is_started(own, tmp_path):
    out = tmp_path / "out"
    for arm, says in (
        (Arm(name="a", python=str(tmp_path / "none")), r"arm a: .*none is no interpreter"),
        (Arm(name="a", flags=["--kv-transfer-config={}"]), "the arms set it"),
    ):
        with pytest.raises(CodesignError, match=says):
            execute_arms(ArmsPlan(own, PLAN, (arm,), 1), out, pytest.fail)
    assert not out.exists()


def test_an_old_run_without_definitions_is_read(own, tmp_path):
    out = tmp_path / "out"
    execute_arms(ArmsPlan(own, PLAN, BUILT_IN[:1], 1), out, lambda _line: None)
    path = out / "results.json"
    text = path.read_text()
    run = results.read_arms(path)
    path.write_text(text.replace('"definitions": [],', ""))
    assert '"definitions"' not in path.read_text()
    assert results.read_arms(path) == run


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A session of this process whose worker is another one, which sleeps."""
    monkeypatch.setattr("vllm_codesign.bench.placement._FOUND_S", 0.3)
    monkeypatch.setattr(
        "vllm_codesign.bench.placement.sessions", lambda _shm: session.sessions(tmp_path)
    )
    made = session.create(tmp_path, 1, {})
    child = subprocess.Popen(["sleep", "60"])
    made.write_json(
        f"process-{child.pid}.hooks.json", {"roles": ["engine_core", "worker"], "pid": child.pid}
    )
    yield child.pid
    child.kill()
    child.wait()


def test_a_role_is_pinned_and_the_rest_is_left(server):
    one = {min(os.sched_getaffinity(0))}
    before = os.sched_getaffinity(0)
    assert place_roles(os.getpid(), Roles({"worker": one})) == {"worker": [server]}
    assert os.sched_getaffinity(server) == one
    assert os.sched_getaffinity(0) == before


def test_a_role_that_is_not_there(server):
    with pytest.raises(CodesignError, match="no process with the role api_server"):
        place_roles(os.getpid(), Roles({"worker": {0}}, {"api_server": 1}))


def test_cores_that_are_not_there(server):
    with pytest.raises(CodesignError, match=r"worker cannot run on \[4095\] \(Invalid argument\)"):
        place_roles(os.getpid(), Roles({"worker": {4095}}))


def test_a_role_goes_after_the_others(server):
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert place_roles(os.getpid(), Roles(nice={"worker": 19})) == {"worker": [server]}
    assert os.getpriority(os.PRIO_PROCESS, server) == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_niceness_that_is_not_allowed(server, monkeypatch):
    def refuse(*_given):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    with pytest.raises(CodesignError, match=r"worker cannot be set to 5 \(Permission denied\): it"):
        place_roles(os.getpid(), Roles(nice={"worker": 5}))


@pytest.mark.parametrize("asked", [Roles(cores={"worker": {0}}), Roles(nice={"worker": 5})])
def test_a_process_that_has_ended_meanwhile(server, asked):
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    with pytest.raises(CodesignError, match="No such file or directory"):
        place_roles(os.getpid(), asked)
