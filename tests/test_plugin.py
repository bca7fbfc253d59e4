"""`register()`: called unguarded by vLLM, in every process, perhaps several times."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_codesign import plugin, settings
from vllm_codesign.hooks import session_start

# A fake vLLM with one real target; `python -c` so that pytest is not in the process.
FAKE = "class Scheduler:\n    def __init__(self): pass\n    def schedule(self): return 1\n"

LOOK = """
import json, os, sys, threading
from vllm_codesign import plugin
{}
plugin.register()
plugin.register()
from vllm.v1.core.sched.scheduler import Scheduler
print(json.dumps({{
    "wrapped": [n for n in vars(Scheduler) if hasattr(getattr(Scheduler, n), "__codesign__")],
    "twice": hasattr(getattr(Scheduler.schedule, "__wrapped__", None), "__wrapped__"),
    "heavy": sorted(
        {{n.split(".")[0] for n in sys.modules}}
        & {{"opentelemetry", "numpy", "pydantic", "torch", "pyarrow", "grpc", "click", "rich"}}
    ),
    "vllm": sorted(n for n in sys.modules if n.startswith("vllm.")),
    "threads": threading.active_count(),
    "session": os.environ.get("CODESIGN_SESSION"),
}}))
"""


@pytest.fixture
def look(tmp_path: Path) -> Any:
    """Registers in a process of its own and says what that did."""
    folder = tmp_path / "vllm/v1/core/sched"
    folder.mkdir(parents=True)
    (folder / "scheduler.py").write_text(FAKE)
    for package in (folder, *folder.parents[:3]):
        (package / "__init__.py").touch()
    shm = tmp_path / "shm"
    shm.mkdir()

    def run(before: str = "", **environ: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", LOOK.format(before)],
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(tmp_path),
                "PYTHONPATH": f"{tmp_path}:{Path(plugin.__file__).parents[1]}",
                "CODESIGN_SHM": str(shm),
                **environ,
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        found["stderr"] = done.stderr
        found["shm"] = [path.name for path in shm.iterdir()]
        return found

    return run


def test_what_registration_does(look: Any) -> None:
    found = look()
    assert found["wrapped"] == ["__init__", "schedule"]
    assert not found["twice"]
    assert found["heavy"] == []
    assert found["vllm"] == [
        "vllm.v1",
        "vllm.v1.core",
        "vllm.v1.core.sched",
        "vllm.v1.core.sched.scheduler",
    ], "only what vLLM itself imports"
    assert (found["threads"], found["session"], found["shm"]) == (1, None, [])
    assert found["stderr"] == ""


def test_off_patches_nothing(look: Any) -> None:
    found = look(CODESIGN_LEVEL="off")
    assert (found["wrapped"], found["shm"], found["threads"]) == ([], [], 1)


def test_a_bad_setting_is_no_obstacle(look: Any) -> None:
    assert look(CODESIGN_LEVEL="loud", CODESIGN_RING_BYTES="x")["wrapped"] != []


@pytest.mark.parametrize(
    "break_it",
    [
        "plugin.settings.load = lambda: 1 / 0",
        "plugin.Installer = lambda *_: 1 / 0",
        "plugin.Installer.install = lambda *_: 1 / 0",
        "plugin.TABLES = (None,)",
    ],
)
def test_nothing_comes_out_of_it(look: Any, break_it: str) -> None:
    found = look(break_it)
    assert found["wrapped"] == []
    assert "codesign: not active:" in found["stderr"]


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, vllm_codesign.plugin; roots = {n.split('.')[0] for n in sys.modules};"
        "print(*sorted(roots - sys.stdlib_module_names - {'__main__', 'vllm_codesign', 'wrapt'}))"
    )
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    at_start = {name.split(".")[0] for name in bare.stdout.split()}
    assert set(done.stdout.split()) - at_start == set()


def test_a_session_that_cannot_be_made_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(settings.ENV_SHM, str(tmp_path / "nowhere"))
    # Set, not deleted: what is announced to children must not stay in this process.
    monkeypatch.setenv(settings.ENV_SESSION, "")
    monkeypatch.setattr(session_start, "_gave_up", False)
    monkeypatch.setattr(session_start, "_joined", None)
    for _ in range(3):
        assert session_start.start_or_join() is None
        session_start.take_role("engine_core")
    (record,) = caplog.records
    assert f"codesign: no tracing, since {tmp_path}/nowhere cannot be used" in record.message
    assert "CODESIGN_LEVEL=off" in record.message
