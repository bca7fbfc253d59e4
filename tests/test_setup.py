"""What `requirements/setup.py` takes for whole, and what it hands to uv."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from requirements.environments import machine, paths, uv, with_vllm
from requirements.environments.environment import Environment
from requirements.environments.programs import SetupError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    made = Environment(".venv")
    made.site_packages.mkdir(parents=True)
    return made


def _install(site_packages: Path, name: str = "thing", version: str = "1.0") -> Path:
    info = site_packages / f"{name}-{version}.dist-info"
    info.mkdir()
    (site_packages / f"{name}.py").write_text("x = 1\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "INSTALLER").write_text("uv")
    (info / "RECORD").write_text(
        f"{name}.py,,6\n{info.name}/METADATA,,\n{info.name}/INSTALLER,,2\n{info.name}/RECORD,,\n"
    )
    return info


def test_a_whole_installation_is_left_alone(environment) -> None:
    info = _install(environment.site_packages)
    assert environment.forget_damaged() == 0
    assert info.exists()
    assert environment.installed("thing") == "1.0"


def _no_file(info: Path) -> None:
    info.parent.joinpath("thing.py").unlink()


def _short_file(info: Path) -> None:
    info.parent.joinpath("thing.py").write_text("x")


def _no_record(info: Path) -> None:
    info.joinpath("RECORD").unlink()


def _empty_record(info: Path) -> None:
    info.joinpath("RECORD").write_text("")


def _no_metadata(info: Path) -> None:
    info.joinpath("METADATA").unlink()


def _no_installer(info: Path) -> None:
    info.joinpath("INSTALLER").unlink()


@pytest.mark.parametrize(
    "damage", [_no_file, _short_file, _no_record, _empty_record, _no_metadata, _no_installer]
)
def test_a_half_installation_is_forgotten(environment, damage) -> None:
    info = _install(environment.site_packages)
    damage(info)
    assert environment.forget_damaged() == 1
    assert environment.installed("thing") == ""


def test_a_longer_file_is_somebodys_own(environment) -> None:
    info = _install(environment.site_packages)
    info.parent.joinpath("thing.py").write_text("x = 1\ny = 2\n")
    assert environment.forget_damaged() == 0


def test_a_note_that_was_cut_short_counts_as_none(environment) -> None:
    environment.stamp("packages", "abc")
    assert environment.stamps() == {"packages": "abc"}
    (environment.path / "codesign-setup.json").write_text('{"packa')
    assert environment.stamps() == {}


def test_the_empty_vllm_is_what_vllm_looks_for(environment) -> None:
    stale = _install(environment.site_packages, "vllm", "0.18.0+cpu")
    with_vllm.write_vllm_distribution(environment, "0.32.0")
    assert not stale.exists()
    (found,) = importlib.metadata.distributions(name="vllm", path=[str(environment.site_packages)])
    assert found.version == "0.32.0+cpu"
    assert environment.forget_damaged() == 0


def test_an_environment_without_python_does_not_run(environment) -> None:
    assert not environment.runs()


@pytest.fixture
def installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """`set_up_vllm` without a machine, uv and torch: what it would have called."""
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    for file in (ROOT / "requirements").glob("*.txt"):
        shutil.copyfile(file, requirements / file.name)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "REQUIREMENTS", requirements)
    for name in ("check_machine", "check_room", "bootstrap_uv", "install_torch", "install_project"):
        monkeypatch.setattr(with_vllm, name, lambda *args, **named: None)
    monkeypatch.setattr(with_vllm, "uv_environment", dict)
    monkeypatch.setattr(
        with_vllm,
        "prepare",
        lambda made, env: made.site_packages.mkdir(parents=True, exist_ok=True),
    )
    monkeypatch.setattr(Environment, "runs", lambda self: self.path.exists())
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(with_vllm, "run", lambda *command, env=None: called.append(command))
    return called


def _files(installs: list[tuple[str, ...]]) -> list[str]:
    """The requirement files that were installed, each without what it depends on."""
    found = []
    for command in installs:
        if "-r" in command:
            assert "--no-deps" in command
            found.append(Path(command[-1]).name)
    installs.clear()
    return found


LMCACHE = "lmcache-0.32.0-wheel.txt"
PACKAGES = ["vllm-0.32.0.txt", "vllm-0.32.0-wheel.txt", LMCACHE]


def test_lmcache_comes_last_and_brings_nothing(installs) -> None:
    with_vllm.set_up_vllm("0.32.0", "")
    assert _files(installs) == PACKAGES
    with_vllm.set_up_vllm("0.32.0", "")
    assert _files(installs) == []


def test_vllm_0_19_comes_without_lmcache(installs) -> None:
    with_vllm.set_up_vllm("0.19.0", "")
    assert _files(installs) == ["vllm-0.19.0.txt", "vllm-0.19.0-wheel.txt"]


def test_a_setup_that_ended_before_lmcache_goes_on(
    installs, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = with_vllm.run

    def cut_short(*command, env=None):
        if LMCACHE in str(command[-1]):
            raise KeyboardInterrupt
        recorded(*command, env=env)

    with monkeypatch.context() as patched:
        patched.setattr(with_vllm, "run", cut_short)
        with pytest.raises(KeyboardInterrupt):
            with_vllm.set_up_vllm("0.32.0", "")
    assert _files(installs) == PACKAGES[:-1]
    with_vllm.set_up_vllm("0.32.0", "")
    assert _files(installs)[-1] == LMCACHE


def test_another_lmcache_is_installed_over_the_old(installs) -> None:
    with_vllm.set_up_vllm("0.32.0", "")
    installs.clear()
    (paths.REQUIREMENTS / LMCACHE).write_text("lmcache==0.5.7\n")
    with_vllm.set_up_vllm("0.32.0", "")
    assert LMCACHE in _files(installs)


def test_uv_is_told_what_pip_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    known = {
        "index-url": "https://user:secret@index.example/simple",
        "extra-index-url": "https://a.example\nhttps://b.example",
        "find-links": f"{wheels} {tmp_path / 'nowhere'}",
        "timeout": "60",
    }
    monkeypatch.setattr(uv, "pip_settings", lambda: known)
    for variable, _ in uv.FROM_PIP.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "5")
    env = uv.uv_environment()
    assert env["UV_DEFAULT_INDEX"] == known["index-url"]
    assert env["UV_EXTRA_INDEX_URL"] == "https://a.example https://b.example"
    assert env["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert env["UV_FIND_LINKS"] == str(wheels)
    assert env["UV_HTTP_TIMEOUT"] == "5"


def test_pips_settings_come_from_files_and_environment_the_latter_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    listing = (
        "global.index-url='https://global.example'\n"
        "install.index-url='https://install.example'\n"
        "global.find-links='\\n/a\\n/b'\n"
        ":env:.find-links='/c'\n"
        ":env:.config-file='/etc/pip.conf'\n"
    )
    python = tmp_path / "bin" / "python"
    python.write_text(f"#!/bin/sh\ncat <<'E'\n{listing}E\n")
    python.chmod(0o755)
    monkeypatch.setattr(uv, "UV_VENV", tmp_path)
    found = uv.pip_settings()
    assert found["index-url"] == "https://install.example"
    assert found["find-links"] == "/c"


def test_no_room_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3 << 30)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SetupError, match=r"has 3\.0 GiB free, the lot takes 4 GiB") as caught:
        machine.check_room(tmp_path / "not" / "there", 4 << 30, "the lot")
    assert "\n" not in str(caught.value)


def test_a_python_that_is_too_old_is_said_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        [ROOT / "requirements" / "setup.sh"],
        env={"PYTHON": str(old), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert str(old) in done.stderr


def test_a_version_without_pins_is_refused() -> None:
    script = ROOT / "requirements" / "setup.py"
    done = subprocess.run([sys.executable, script, "0.1.0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "setup: no pins for vLLM 0.1.0; there are 0.32.0, 0.19.0\n"
