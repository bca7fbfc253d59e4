"""The only reader of the environment.

Imported inside vLLM, so: standard library only, and a bad value never raises there.
`load()` returns the settings with defaults in place of what was bad, and the problems as
lines for people; the caller decides whether a problem is a warning (inside vLLM) or an
error (`codesign doctor`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LEVELS = ("off", "request", "step")

ENV_LEVEL = "CODESIGN_LEVEL"
ENV_STORE = "CODESIGN_STORE"
ENV_METRICS_PORT = "CODESIGN_METRICS_PORT"
ENV_RING_BYTES = "CODESIGN_RING_BYTES"
ENV_KEEP_RECORDS = "CODESIGN_KEEP_RECORDS"
ENV_GIL = "CODESIGN_GIL"
ENV_SESSION = "CODESIGN_SESSION"
"""Set by the process that starts a session, for its children; not for people."""
ENV_SHM = "CODESIGN_SHM"
"""Folder for the session's shared memory instead of /dev/shm; for tests of full or absent ones."""

DEFAULT_RING_BYTES = 1 << 20
MIN_RING_BYTES = 1 << 16
MAX_RING_BYTES = 1 << 30
DEFAULT_METRICS_PORT = 9464


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment asks for; every field has a usable value."""

    level: str = "step"
    store: Path | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int = DEFAULT_METRICS_PORT
    ring_bytes: int = DEFAULT_RING_BYTES
    keep_records: bool = False
    gil: bool = False
    session: str = ""
    shm: Path = Path("/dev/shm")
    plugins: tuple[str, ...] | None = None
    """Value of `VLLM_PLUGINS`; None where it is not set and vLLM loads every plugin."""

    @property
    def level_number(self) -> int:
        return LEVELS.index(self.level)


def default_store(environ: Mapping[str, str]) -> Path:
    """`vllm-codesign` in the user's state folder (XDG base directories)."""
    state = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path in these variables is to be ignored.
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "vllm-codesign"


def load(environ: Mapping[str, str] | None = None) -> tuple[Settings, list[str]]:
    """Read the settings; return them with one line for each value that was not usable."""
    env = os.environ if environ is None else environ
    problems: list[str] = []

    def bad(name: str, want: str, default: object) -> None:
        problems.append(f"{name}={env[name]!r} is not {want}; using {default}")

    level = env.get(ENV_LEVEL, "").strip().lower() or "step"
    if level not in LEVELS:
        bad(ENV_LEVEL, "one of " + ", ".join(LEVELS), "step")
        level = "step"

    store: Path | None
    try:
        if ENV_STORE not in env:
            store = default_store(env)
        elif text := env[ENV_STORE].strip():
            store = Path(text).expanduser().absolute()
        else:
            store = None
    except RuntimeError as error:
        problems.append(f"no home folder for the local store ({error}); set {ENV_STORE} to a path")
        store = None

    host, port = "127.0.0.1", DEFAULT_METRICS_PORT
    if text := env.get(ENV_METRICS_PORT, "").strip():
        head, _, tail = text.rpartition(":")
        if tail.isdecimal() and int(tail) <= 65535:
            host, port = head.strip("[]") or "127.0.0.1", int(tail)
        else:
            bad(ENV_METRICS_PORT, "PORT or HOST:PORT", DEFAULT_METRICS_PORT)

    ring_bytes = DEFAULT_RING_BYTES
    if text := env.get(ENV_RING_BYTES, "").strip():
        if text.isdecimal() and MIN_RING_BYTES <= int(text) <= MAX_RING_BYTES:
            ring_bytes = int(text)
        else:
            bad(ENV_RING_BYTES, f"a number from {MIN_RING_BYTES} to {MAX_RING_BYTES}", ring_bytes)

    flags = {ENV_KEEP_RECORDS: False, ENV_GIL: False}
    for name in flags:
        text = env.get(name, "").strip().lower()
        if text in ("1", "true", "yes", "on"):
            flags[name] = True
        elif text not in ("", "0", "false", "no", "off"):
            bad(name, "0 or 1", 0)

    plugins = env.get("VLLM_PLUGINS")
    return (
        Settings(
            level=level,
            store=store,
            metrics_host=host,
            metrics_port=port,
            ring_bytes=ring_bytes,
            keep_records=flags[ENV_KEEP_RECORDS],
            gil=flags[ENV_GIL],
            session=env.get(ENV_SESSION, ""),
            shm=Path(env.get(ENV_SHM) or "/dev/shm"),
            plugins=None if plugins is None else tuple(p.strip() for p in plugins.split(",")),
        ),
        problems,
    )


_OTEL_AS_GIVEN = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


def exporter_environment() -> dict[str, str]:
    """What the exporter is started with: OpenTelemetry's variables as the user set them.

    vLLM's `--otlp-traces-endpoint` sets OTEL_EXPORTER_OTLP_TRACES_ENDPOINT in its own
    process, and that would send our spans to its address by its protocol.
    """
    others = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return others | _OTEL_AS_GIVEN


def sampling() -> tuple[bool, int]:
    """OTEL_TRACES_SAMPLER as (whether a caller's decision holds, bound).

    Where no caller decides, a trace is sampled if the lower 64 bits of its id are below the
    bound: OpenTelemetry's own rule, so the exporter's SDK decides the same. Bad values,
    which the exporter reports, count as unset.
    """
    name = _OTEL_AS_GIVEN.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    by_parent = not name or name.startswith("parentbased_")
    kind = name.removeprefix("parentbased_")
    ratio = 0.0 if kind == "always_off" else 1.0
    if kind == "traceidratio":
        try:
            given = float(_OTEL_AS_GIVEN.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or 1.0)
        except ValueError:
            given = 1.0
        ratio = given if 0.0 <= given <= 1.0 else 1.0
    return by_parent, round(ratio * (1 << 64))


def announce_session(folder: str) -> None:
    """Hand the session folder to every process that this one starts from now on."""
    os.environ[ENV_SESSION] = folder


def clickhouse_password(environ: Mapping[str, str] | None = None) -> str:
    """CLICKHOUSE_PASSWORD, ClickHouse's own variable; apart from the settings, which are shown."""
    env = os.environ if environ is None else environ
    return env.get("CLICKHOUSE_PASSWORD", "")
