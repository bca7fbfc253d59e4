"""`codesign doctor` names each problem with its cure, and changes nothing."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.otlp_receiver import free_port
from vllm_codesign.cli import checks, doctor
from vllm_codesign.cli.checks import Finding
from vllm_codesign.cli.main import main
from vllm_codesign.hooks import table
from vllm_codesign.hooks.table import Hook, Status
from vllm_codesign.settings import Settings


@pytest.fixture(autouse=True)
def sound(shm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without a fault, and a vLLM whose hooks are these four."""
    monkeypatch.setenv("CODESIGN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CODESIGN_METRICS_PORT", str(free_port()))
    monkeypatch.setenv("VLLM_PLUGINS", "codesign")
    for name in ("CODESIGN_LEVEL", "CODESIGN_RING_BYTES", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "vllm_version", lambda: "0.32.0+cpu")
    monkeypatch.setattr(checks, "vllm_version", lambda: "0.32.0+cpu")
    use(monkeypatch, row("all.there", "json:dumps"))


def row(name: str, target: str, **more: Any) -> Hook:
    return Hook(name, (target,), lambda original, _: original, **more)


def use(monkeypatch: pytest.MonkeyPatch, *hooks: Hook) -> None:
    monkeypatch.setattr(doctor, "TABLES", (SimpleNamespace(TABLE="t", HOOKS=hooks),))


def diagnose(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json"])
    return code, json.loads(capsys.readouterr().out)


def lines(document: dict[str, Any], severity: str) -> list[str]:
    return [
        f"{f['subject']}: {f['text']}" for f in document["findings"] if f["severity"] == severity
    ]


def test_a_sound_environment(capsys: pytest.CaptureFixture[str], tmp_path: Path, shm: Path) -> None:
    code, document = diagnose(capsys)
    assert (code, document["ok"]) == (0, True)
    assert lines(document, "error") == []
    assert document["versions"]["vllm"] == "0.32.0+cpu"
    assert document["level"] == "step"
    assert document["servers"] == []
    assert document["hooks"] == [
        {
            "id": "all.there",
            "table": "t",
            "status": "installed",
            "target": "json:dumps",
            "detail": "",
            "required": True,
        }
    ]
    assert not (tmp_path / "store").exists()
    assert list(shm.iterdir()) == []
    assert not hasattr(json.dumps, "__wrapped__")


def test_hooks_that_cannot_be_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(
        monkeypatch,
        row("gone", "json:nothing"),
        row("changed", "json:dumps", reads=("request",)),
        row("broken", "codesign_no_such_module:f"),
        row("nice.to.have", "json:nothing", required=False),
        row("old", "json:nothing", versions=("0.19", "0.32")),
    )
    code, document = diagnose(capsys)
    assert code == 1
    assert [(h["id"], h["status"]) for h in document["hooks"]] == [
        ("gone", Status.MISSING),
        ("changed", Status.SIGNATURE_CHANGED),
        ("broken", Status.MISSING),
        ("nice.to.have", Status.MISSING),
        ("old", Status.VERSION_SKIPPED),
    ]
    cure = "use a supported vLLM or report this; requests would not be traced whole"
    gone, changed, broken = lines(document, "error")
    assert gone == f"hook gone: json:nothing: missing, none of its targets exists; {cure}"
    assert changed.startswith("hook changed: json:dumps: signature_changed, no parameter request")
    assert "codesign_no_such_module cannot be imported: ModuleNotFoundError" in broken
    (nice,) = [line for line in lines(document, "warning") if line.startswith("hook")]
    assert nice.endswith("its figures will be absent")


def test_rows_that_are_lacking_but_not_needed_do_not_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, row("nice.to.have", "json:nothing", required=False))
    assert main(["doctor"]) == 0


def test_no_vllm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "vllm_version", lambda: "")
    monkeypatch.setattr(checks, "vllm_version", lambda: "")
    code, document = diagnose(capsys)
    assert code == 1
    assert lines(document, "error") == [
        f"vllm: vLLM is not installed for {sys.executable}: run the codesign of the environment "
        "that serves"
    ]
    assert document["hooks"] == []
    assert document["versions"]["vllm"] == ""


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "CODESIGN_LEVEL",
            "loud",
            "settings: CODESIGN_LEVEL='loud' is not one of off, request, step; using step",
        ),
        (
            "CODESIGN_RING_BYTES",
            "12",
            "settings: CODESIGN_RING_BYTES='12' is not a number from 65536 to 1073741824; "
            "using 1048576",
        ),
        ("CODESIGN_STORE", "/proc/nowhere", "store: /proc is not writable: set CODESIGN_STORE"),
        ("CODESIGN_STORE", "/dev/null/x", "store: /dev/null is no folder: set CODESIGN_STORE"),
        ("CODESIGN_SHM", "/nowhere", "shared memory: /nowhere does not exist: mount a tmpfs"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon", "otlp: OTEL_EXPORTER_OTLP_PROTOCOL"),
    ],
)
def test_bad_settings(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    line: str,
) -> None:
    if name.startswith("OTEL"):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")
    if value.startswith("/proc"):
        # Root may write anywhere, as far as access(2) is concerned.
        monkeypatch.setattr(checks.os, "access", lambda path, mode: str(path) != "/proc")
    monkeypatch.setenv(name, value)
    code, document = diagnose(capsys)
    assert code == 1
    (error,) = lines(document, "error")
    assert error.startswith(line)


def test_where_metrics_are() -> None:
    port = free_port()
    said = [(f.severity, f.text) for f in checks.metrics(Settings(metrics_port=port), {})]
    assert said == [
        ("note", "no metrics are pushed: no OTLP endpoint is set, or they are switched off"),
        ("note", f"Prometheus can read http://127.0.0.1:{port}/metrics"),
    ]
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317",
        "OTEL_METRIC_EXPORT_INTERVAL": "2500",
    }
    said = [(f.severity, f.text) for f in checks.metrics(Settings(metrics_port=0), environ)]
    assert said == [
        ("note", "metrics are pushed to grpc without TLS at collector:4317 every 2.5 s"),
        ("note", "CODESIGN_METRICS_PORT is 0: Prometheus has nothing to read"),
    ]


def test_a_taken_metrics_port_is_a_warning_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        _, finding = checks.metrics(Settings(metrics_port=port), {})
    assert finding.severity == "warning"
    assert finding.text.startswith(f"127.0.0.1:{port} cannot be listened on now (Address already")


def test_a_bad_variable_of_metrics_alone_is_an_error_and_a_shared_one_is_told_once() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon",
        "OTEL_METRICS_EXEMPLAR_FILTER": "some",
    }
    errors = [f.text for f in checks.metrics(Settings(metrics_port=0), environ)][:-1]
    assert errors == [
        "OTEL_METRICS_EXEMPLAR_FILTER='some' is not supported; set one of trace_based, always_on, "
        "always_off"
    ]


@pytest.mark.parametrize(
    ("free_kib", "severity", "text"),
    [
        (900, "error", "has 900 KiB free and a ring takes 1024: free some"),
        (2048, "warning", "has 2 MiB free; a server with many processes takes up to 16"),
        (65536, "note", ": 64 MiB free"),
    ],
)
def test_room_in_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_kib: int, severity: str, text: str
) -> None:
    state = SimpleNamespace(f_bavail=free_kib, f_frsize=1024)
    monkeypatch.setattr(checks.os, "statvfs", lambda _: state)
    (finding,) = checks.shared_memory(Settings(shm=tmp_path))
    assert finding.severity == severity
    assert text in finding.text


def test_little_room_for_captures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = SimpleNamespace(free=100 << 20)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage)
    (finding,) = checks.store(tmp_path / "a" / "b")
    assert (finding.severity, "100 MiB free" in finding.text) == ("warning", True)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.resource, "getrlimit", lambda _: (100, 100))
    assert [(f.severity, f.text[-11:]) for f in checks.limits(Settings())] == [
        ("error", "`ulimit -f`"),
        ("warning", "`ulimit -n`"),
    ]


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        (Settings(plugins=("codesign", "other")), None),
        (
            Settings(plugins=None),
            ("note", "VLLM_PLUGINS is not set: vLLM loads every plugin, this one too"),
        ),
        (
            Settings(plugins=("other",)),
            ("warning", "VLLM_PLUGINS=other keeps the plugin out: add codesign to it"),
        ),
        (
            Settings(plugins=("codesign",), level="off"),
            ("warning", "CODESIGN_LEVEL=off: nothing is patched, nothing is recorded"),
        ),
    ],
)
def test_whether_the_plugin_is_loaded(settings: Settings, finding: tuple[str, str] | None) -> None:
    found = [(f.severity, f.text) for f in checks.plugin(settings)]
    assert found == ([finding] if finding else [])


def test_entry_point_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.metadata, "entry_points", lambda **_: ())
    (finding,) = checks.plugin(Settings(plugins=("codesign",)))
    assert finding == Finding(
        "error",
        "plugin",
        "no entry point codesign in vllm.general_plugins: vLLM cannot find the plugin; "
        "reinstall vllm-codesign",
    )


def test_live_servers_and_their_losses(
    serve: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve("vllm", "serve", "a/model", records=500)
    code, document = diagnose(capsys)
    assert code == 0, "what a server lost is no fault of the environment"
    name = f"server {server.pid}: "
    lost, errors, exporter = (w for w in lines(document, "warning") if w.startswith(name))
    assert "lost 52 records (52 req)" in lost
    assert "1 errors in our own hooks" in errors
    assert "its exporter does not run" in exporter
    assert [s["pid"] for s in document["servers"]] == [server.pid]


def test_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, row("all.there", "json:dumps"), row("gone", "json:nothing"))
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    assert main(["doctor"]) == 1
    out = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert out[0].startswith("codesign ")
    assert "vllm 0.32.0+cpu" in out[0]
    assert [line.split() for line in out[2:5]] == [
        ["process", "hook", "status", "needed", "target"],
        ["t", "all.there", "installed", "yes", "json:dumps"],
        ["t", "gone", "missing", "yes", "none", "of", "its", "targets", "exists"],
    ]
    assert out[-3].startswith("warning: plugin: VLLM_PLUGINS=other keeps the plugin out")
    assert out[-2].startswith("error: hook gone: json:nothing: missing")
    assert out[-1] == "1 error"


def test_noise_of_imports_is_silenced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "codesign_noisy.py").write_text(
        "import logging, os, warnings\n"
        "os.write(1, b'C library'); os.write(2, b'C library'); print('print')\n"
        "warnings.warn('warning'); logging.getLogger('x').error('log')\n"
        "def f(): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    use(monkeypatch, row("noisy", "codesign_noisy:f"))
    assert main(["doctor", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["hooks"][0]["status"] == "installed"
    assert err == ""


@pytest.mark.vllm
def test_the_installed_vllm() -> None:
    """The real thing in a process of its own: all fine, nothing wrapped, started or left."""
    pytest.importorskip("vllm", reason="needs vLLM")
    code = """
import json, os, sys, types
from vllm_codesign.cli.main import main
code = main(["doctor", "--json"])
wrapped = [
    name for name, module in list(sys.modules.items()) if name.startswith("vllm.")
    for each in list(vars(module).values())
    for member in [each, *(vars(each).values() if isinstance(each, type) else ())]
    if isinstance(member, types.FunctionType) and hasattr(member, "__codesign__")
]
children = open(f"/proc/self/task/{os.getpid()}/children").read()
print(json.dumps([code, wrapped, children]), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    document = json.loads(done.stdout)
    assert json.loads(done.stderr.splitlines()[-1]) == [0, [], ""]
    assert document["ok"]
    assert {hook["status"] for hook in document["hooks"]} <= {"installed", "version_skipped"}
    assert table.Status.INSTALLED in {hook["status"] for hook in document["hooks"]}
