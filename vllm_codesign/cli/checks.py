"""What `codesign doctor` looks at beside the hooks. Nothing here writes or starts anything."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import vllm_codesign
from vllm_codesign.cli.live import Server
from vllm_codesign.exporter.metrics import push_settings
from vllm_codesign.exporter.metrics.endpoint import PATH
from vllm_codesign.exporter.otlp_settings import check, read
from vllm_codesign.hooks.installer import installed_version, vllm_version
from vllm_codesign.recorder.session import MAX_TOTAL_BYTES
from vllm_codesign.settings import ENV_METRICS_PORT, Settings

PLUGIN_GROUP = "vllm.general_plugins"
STORE_ROOM = 2 << 30
"""What the store may grow to."""

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis: cause and cure where it is a problem."""

    severity: Literal["error", "warning", "note"]
    subject: str
    text: str


def versions() -> dict[str, str]:
    """Versions of what matters here; empty where a package is not installed."""
    found = {
        "codesign": vllm_codesign.__version__,
        "python": sys.version.split()[0],
        "vllm": vllm_version(),
    }
    for name in ("torch", "wrapt", "opentelemetry-sdk"):
        found[name] = installed_version(name)
    return found


def plugin(settings: Settings) -> Iterator[Finding]:
    """Whether vLLM will find the plugin and load it."""
    if not vllm_version():
        yield Finding(
            "error",
            "vllm",
            f"vLLM is not installed for {sys.executable}: run the codesign of the environment "
            "that serves",
        )
    entries = metadata.entry_points(group=PLUGIN_GROUP, name="codesign")
    if not entries:
        yield Finding(
            "error",
            "plugin",
            f"no entry point codesign in {PLUGIN_GROUP}: vLLM cannot find the plugin; "
            "reinstall vllm-codesign",
        )
    if settings.plugins is None:
        yield Finding(
            "note", "plugin", "VLLM_PLUGINS is not set: vLLM loads every plugin, this one too"
        )
    elif "codesign" not in settings.plugins:
        yield Finding(
            "warning",
            "plugin",
            f"VLLM_PLUGINS={','.join(settings.plugins)} keeps the plugin out: add codesign to it",
        )
    if settings.level == "off":
        yield Finding(
            "warning", "plugin", "CODESIGN_LEVEL=off: nothing is patched, nothing is recorded"
        )


def otlp(environ: Mapping[str, str]) -> Iterator[Finding]:
    """OpenTelemetry's variables, and where traces go."""
    problems = check(environ)
    for problem in problems:
        yield Finding("error", "otlp", problem)
    if not problems:
        chosen, _ = read(environ)
        if chosen is None:
            text = "no traces are sent: OTEL_EXPORTER_OTLP_ENDPOINT is not set, or switched off"
        else:
            text = f"traces are sent to {chosen.destination}"
        yield Finding("note", "otlp", text)


def metrics(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Where `/metrics` will be, whether its port is free now, and where metrics are pushed to."""
    shared = set(check(environ))  # those of traces are told already
    chosen, problems = push_settings.read(environ)
    for problem in problems:
        if problem not in shared:
            yield Finding("error", "metrics", problem)
    if not problems:
        text = "no metrics are pushed: no OTLP endpoint is set, or they are switched off"
        if chosen.push is not None:
            seconds = chosen.push.interval_ms / 1000
            text = f"metrics are pushed to {chosen.push.destination} every {seconds:g} s"
        yield Finding("note", "metrics", text)
    host, port = settings.metrics_host, settings.metrics_port
    if not port:
        yield Finding("note", "metrics", f"{ENV_METRICS_PORT} is 0: Prometheus has nothing to read")
        return
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        yield Finding(
            "warning",
            "metrics",
            f"{address} cannot be listened on now ({error.strerror or error}): another server has "
            f"it, or set {ENV_METRICS_PORT} to another port; requests are traced all the same",
        )
    else:
        yield Finding("note", "metrics", f"Prometheus can read http://{address}{PATH}")


def store(folder: Path | None) -> Iterator[Finding]:
    """Whether the exporter can write there."""
    if folder is None:
        yield Finding("note", "store", "CODESIGN_STORE is empty: no local captures")
        return
    there = _nearest(folder)
    if not there.is_dir():
        yield Finding("error", "store", f"{there} is no folder: set CODESIGN_STORE to another path")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "error", "store", f"{there} is not writable: set CODESIGN_STORE to a folder that is"
        )
    elif (free := shutil.disk_usage(there).free) < STORE_ROOM:
        yield Finding(
            "warning",
            "store",
            f"{folder}: {free // _MIB} MiB free, captures may take {STORE_ROOM // _MIB}; "
            "free some or set CODESIGN_STORE to another disk",
        )
    else:
        yield Finding("note", "store", f"captures go to {folder}")


def _nearest(folder: Path) -> Path:
    """The folder itself, or what of its path is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def shared_memory(settings: Settings) -> Iterator[Finding]:
    """Whether there is room for the rings."""
    shm, ring = settings.shm, settings.ring_bytes
    if not shm.is_dir():
        yield Finding(
            "error",
            "shared memory",
            f"{shm} does not exist: mount a tmpfs there; until then no server is traced",
        )
        return
    if not os.access(shm, os.W_OK | os.X_OK):
        yield Finding(
            "error", "shared memory", f"{shm} is not writable: no server of yours is traced"
        )
        return
    state = os.statvfs(shm)
    free = state.f_bavail * state.f_frsize
    if free < ring:
        yield Finding(
            "error",
            "shared memory",
            f"{shm} has {free // 1024} KiB free and a ring takes {ring // 1024}: free some, start "
            "the container with a larger --shm-size, or lower CODESIGN_RING_BYTES",
        )
    elif free < MAX_TOTAL_BYTES:
        yield Finding(
            "warning",
            "shared memory",
            f"{shm} has {free // _MIB} MiB free; a server with many processes takes up to "
            f"{MAX_TOTAL_BYTES // _MIB}",
        )
    else:
        yield Finding("note", "shared memory", f"{shm}: {free // _MIB} MiB free")


def limits(settings: Settings) -> Iterator[Finding]:
    """Limits of this shell that would stop a recorder; a service may have others."""
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size != resource.RLIM_INFINITY and size < settings.ring_bytes:
        yield Finding(
            "error",
            "limits",
            f"files may have {size} bytes, a ring takes {settings.ring_bytes}: raise `ulimit -f`",
        )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < 256:
        yield Finding(
            "warning", "limits", f"{files} open files are few for a server: raise `ulimit -n`"
        )


def live(servers: list[Server]) -> Iterator[Finding]:
    """What live servers have lost, and whether their exporters run."""
    for server in servers:
        name = f"server {server.pid}"
        if server.lost:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(server.drops.items()))
            yield Finding(
                "warning",
                name,
                f"lost {server.lost} records ({kinds}): its captures are not whole; raise "
                "CODESIGN_RING_BYTES, or give the exporter more CPU",
            )
        if requests := server.session.requests_lost:
            yield Finding(
                "warning", name, f"lost {requests} requests with exporters that were killed"
            )
        if server.hook_errors:
            yield Finding(
                "warning",
                name,
                f"{server.hook_errors} errors in our own hooks were swallowed; please report that "
                "with the versions above",
            )
        if not server.exporter:
            yield Finding(
                "warning", name, "its exporter does not run (it is restarted within seconds)"
            )
