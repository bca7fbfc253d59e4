"""Every variable: its values, its default, and what is said of a bad one."""

import os
from pathlib import Path

import pytest

from vllm_codesign import settings
from vllm_codesign.settings import Settings, load

HOME = {"XDG_STATE_HOME": "/state"}
DEFAULTS = Settings(store=Path("/state/vllm-codesign"))


def test_defaults() -> None:
    loaded, problems = load(HOME)
    assert (loaded, problems) == (DEFAULTS, [])
    assert loaded.level_number == 2
    assert (loaded.metrics_host, loaded.metrics_port) == ("127.0.0.1", 9464)
    assert (loaded.ring_bytes, loaded.shm) == (1 << 20, Path("/dev/shm"))


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("CODESIGN_LEVEL", "off", "level", "off"),
        ("CODESIGN_LEVEL", " Request ", "level", "request"),
        ("CODESIGN_LEVEL", "", "level", "step"),
        ("CODESIGN_STORE", "", "store", None),
        ("CODESIGN_STORE", "  ", "store", None),
        ("CODESIGN_STORE", "/data/x", "store", Path("/data/x")),
        ("CODESIGN_STORE", "~/x", "store", Path.home() / "x"),
        ("CODESIGN_STORE", "x", "store", Path.cwd() / "x"),
        ("CODESIGN_RING_BYTES", "65536", "ring_bytes", 65536),
        ("CODESIGN_RING_BYTES", "", "ring_bytes", 1 << 20),
        ("CODESIGN_KEEP_RECORDS", "1", "keep_records", True),
        ("CODESIGN_KEEP_RECORDS", "True", "keep_records", True),
        ("CODESIGN_KEEP_RECORDS", "off", "keep_records", False),
        ("CODESIGN_GIL", "yes", "gil", True),
        ("CODESIGN_METRICS_PORT", "0", "metrics_port", 0),
        ("CODESIGN_METRICS_PORT", "9000", "metrics_port", 9000),
        ("CODESIGN_SESSION", "/dev/shm/codesign-1-2", "session", "/dev/shm/codesign-1-2"),
        ("CODESIGN_SHM", "/mnt", "shm", Path("/mnt")),
        ("VLLM_PLUGINS", "codesign, other", "plugins", ("codesign", "other")),
        ("VLLM_PLUGINS", "", "plugins", ("",)),
    ],
)
def test_values(name: str, text: str, field: str, value: object) -> None:
    loaded, problems = load({**HOME, name: text})
    assert (getattr(loaded, field), problems) == (value, [])


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0:9000", "0.0.0.0", 9000),
        (":9000", "127.0.0.1", 9000),
        ("[::1]:9000", "::1", 9000),
    ],
)
def test_metrics_address(text: str, host: str, port: int) -> None:
    loaded, problems = load({**HOME, "CODESIGN_METRICS_PORT": text})
    assert (loaded.metrics_host, loaded.metrics_port, problems) == (host, port, [])


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("CODESIGN_LEVEL", "loud", "'loud' is not one of off, request, step; using step"),
        ("CODESIGN_METRICS_PORT", "http", "'http' is not PORT or HOST:PORT; using 9464"),
        ("CODESIGN_METRICS_PORT", "70000", "'70000' is not PORT or HOST:PORT; using 9464"),
        ("CODESIGN_METRICS_PORT", "-1", "'-1' is not PORT or HOST:PORT; using 9464"),
        ("CODESIGN_METRICS_PORT", "²", "'²' is not PORT or HOST:PORT; using 9464"),
        (
            "CODESIGN_RING_BYTES",
            "1",
            "'1' is not a number from 65536 to 1073741824; using 1048576",
        ),
        (
            "CODESIGN_RING_BYTES",
            "²²²²²²",
            "'²²²²²²' is not a number from 65536 to 1073741824; using 1048576",
        ),
        ("CODESIGN_KEEP_RECORDS", "maybe", "'maybe' is not 0 or 1; using 0"),
        ("CODESIGN_GIL", "2", "'2' is not 0 or 1; using 0"),
    ],
)
def test_a_bad_value_is_one_line_and_the_default(name: str, text: str, problem: str) -> None:
    loaded, problems = load({**HOME, name: text})
    assert problems == [f"{name}={problem}"]
    assert loaded == DEFAULTS


def test_all_bad_values_are_told_at_once() -> None:
    bad = {"CODESIGN_LEVEL": "x", "CODESIGN_RING_BYTES": "x", "CODESIGN_GIL": "x"}
    assert [p.partition("=")[0] for p in load(bad)[1]] == list(bad)


@pytest.mark.parametrize("state", ["", "relative/state"])
def test_a_relative_state_folder_is_ignored(state: str) -> None:
    assert load({"XDG_STATE_HOME": state})[0].store == Path.home() / ".local/state/vllm-codesign"


@pytest.mark.parametrize("environ", [{}, {"CODESIGN_STORE": "~/x"}])
def test_a_user_without_a_home_has_no_store(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    def homeless(_: str = "") -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(Path, "expanduser", homeless)
    loaded, problems = load(environ)
    assert loaded.store is None
    (problem,) = problems
    assert "CODESIGN_STORE" in problem
    assert "home" in problem


def test_the_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODESIGN_LEVEL", "request")
    assert load()[0].level == "request"


def test_children_are_told_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODESIGN_SESSION", "before")
    settings.announce_session("/dev/shm/codesign-1-2")
    assert os.environ["CODESIGN_SESSION"] == "/dev/shm/codesign-1-2"
    assert load()[0].session == "/dev/shm/codesign-1-2"
