"""`.ci/`: what it installs on a machine starts nothing there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_SERVICES = ROOT / ".ci" / "without-services"
FORBIDDEN = 101
"""What policy-rc.d answers when an action is not to be taken."""

SYSTEMCTL = """#!/bin/sh
case $1 in
list-unit-files) cat "$UNITS" ;;
disable)
    echo "$3" >>"$DISABLED"
    [ -z "$REFUSED" ] || { printf 'no bus\nnor a second line\n' >&2; exit 1; }
    ;;
esac
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "policy-rc.d"


def run(policy: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # Under nohup this process ignores SIGINT, and so would everything that it starts.
        ["env", "--default-signal=INT", str(WITHOUT_SERVICES), *command],
        capture_output=True,
        text=True,
        env={**os.environ, "WITHOUT_SERVICES_POLICY": str(policy), **environ},
    )


def test_while_it_runs_services_are_forbidden_and_afterwards_nobody_is(policy: Path) -> None:
    done = run(policy, "sh", "-c", f"{policy} prometheus start; echo $?")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{FORBIDDEN}\n", "")
    assert not policy.exists()


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 100", 100), ("kill -TERM $PPID", 143)]
)
def test_a_policy_that_was_there_is_there_again_however_it_ends(
    policy: Path, command: str, code: int
) -> None:
    policy.write_text("#!/bin/sh\nexit 104\n")
    policy.chmod(0o750)
    assert run(policy, "sh", "-c", command).returncode == code
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"
    assert policy.stat().st_mode & 0o777 == 0o750
    assert [path.name for path in policy.parent.iterdir()] == [policy.name]


def test_what_a_killed_run_left_does_not_stay(policy: Path) -> None:
    policy.write_text("#!/bin/sh\nexit 104\n")
    run(policy, "sh", "-c", "kill -KILL $PPID")
    assert policy.read_text() != "#!/bin/sh\nexit 104\n"
    assert run(policy, "true").returncode == 0
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"


@pytest.mark.parametrize(
    ("ending", "code"),
    [("exit 0", 0), ("exit 100", 100), ("kill -TERM $PPID", 143), ("kill -INT $PPID", 130)],
)
@pytest.mark.parametrize("refused", [False, True])
def test_what_came_enabled_is_disabled_and_nothing_else(
    policy: Path, tmp_path: Path, ending: str, code: int, refused: bool
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text(SYSTEMCTL)
    (programs / "systemctl").chmod(0o755)
    units, disabled = tmp_path / "units", tmp_path / "disabled"
    units.write_text("ssh.service enabled enabled\n")
    came = "a.service enabled enabled\nprometheus.service enabled enabled\n"
    done = run(
        policy,
        *("sh", "-c", f"printf '{came}' >>{units}; {ending}"),
        PATH=f"{programs}:{os.environ['PATH']}",
        UNITS=str(units),
        DISABLED=str(disabled),
        REFUSED="yes" if refused else "",
    )
    assert done.returncode == code
    assert disabled.read_text() == "a.service\nprometheus.service\n"
    said = [
        f"without-services: {unit}.service stays enabled: no bus" for unit in ("a", "prometheus")
    ]
    assert done.stderr.splitlines() == (said if refused else [])
    assert not policy.exists()


def test_without_a_command_it_says_how_to_call_it(policy: Path) -> None:
    done = run(policy)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not policy.exists()


def test_where_the_policy_cannot_be_written_nothing_is_run(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere" / "policy-rc.d", "touch", str(tmp_path / "run"))
    assert (done.returncode, done.stderr.count("run it as root")) == (1, 1)
    assert not (tmp_path / "run").exists()


def test_the_check_installs_through_it() -> None:
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    installs = [line for line in lines if "apt-get install" in line]
    assert installs
    assert all(line.startswith(".ci/without-services apt-get install") for line in installs)
