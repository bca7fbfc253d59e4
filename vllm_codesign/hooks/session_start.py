"""Joins or starts the session when an engine, a scheduler or a worker is constructed.

Not at registration: `vllm serve --help` registers plugins too, and a short-lived process
that inspects the model does nothing else.
"""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import vllm_codesign
from vllm_codesign import settings as settings_module
from vllm_codesign.hooks import gil
from vllm_codesign.hooks.installer import Installer, installed_version, vllm_version
from vllm_codesign.hooks.table import Hook
from vllm_codesign.hooks.wrap import entered
from vllm_codesign.recorder import active, session
from vllm_codesign.recorder.command_line import without_secrets
from vllm_codesign.recorder.process import alive, identity

logger = logging.getLogger("vllm.codesign")

_RESTARTS_PER_MINUTE = 10
_SEE_OUT_S = 5.0

_NONE = "none:"
"""Announced instead of a folder, with pid and start, by a process that could make no session."""

_gave_up = False
_unreported = False
_roles: list[str] = []
_joined: session.Session | None = None

installer: Installer | None = None
"""Of this process, as `plugin` made it."""


def start_or_join() -> session.Session | None:
    """The session of this process; None where there can be none, with one warning."""
    global _joined, _gave_up
    if _joined is not None or _gave_up:
        return _joined
    settings, problems = settings_module.load()
    if _told_already(settings.session):
        _gave_up = True
        return None
    try:
        _joined = _join(settings) or _start(settings, problems)
    except Exception as error:  # noqa: BLE001  # whatever it is, the server comes up
        _gave_up = True
        pid, ticks = identity()
        settings_module.announce_session(f"{_NONE}{pid}:{ticks}")
        logger.warning(
            "codesign: no tracing, since %s cannot be used for shared memory (%s); "
            "free some room there or set CODESIGN_LEVEL=off",
            settings.shm,
            error,
        )
    return _joined


def _told_already(announced: str) -> bool:
    """Whether the process that started this one found no room and said so."""
    if not announced.startswith(_NONE):
        return False
    pid, _, ticks = announced.removeprefix(_NONE).partition(":")
    return pid.isdecimal() and ticks.isdecimal() and alive(int(pid), int(ticks))


def _join(settings: settings_module.Settings) -> session.Session | None:
    if not settings.session or settings.session.startswith(_NONE):
        return None
    try:
        joined = session.join(Path(settings.session))
    except (OSError, session.SessionGone):
        return None  # left over in the environment of a shell: not ours to join
    return joined if alive(*joined.owner) else None


def _start(settings: settings_module.Settings, problems: list[str]) -> session.Session:
    # Those that join do not repeat them.
    for problem in problems:
        logger.warning("codesign: %s", problem)
    if settings.gil and not gil.installed():
        logger.warning("codesign: %s", gil.MISSING)
    session.sweep(settings.shm)
    started = session.create(
        settings.shm,
        settings.level_number,
        {
            "codesign": vllm_codesign.__version__,
            "vllm": vllm_version(),
            "torch": installed_version("torch"),
            "python": sys.version.split()[0],
            "argv": without_secrets(sys.argv),
            "level": settings.level,
            "ring_bytes": settings.ring_bytes,
            "started_unix_ns": time.time_ns(),
        },
    )
    settings_module.announce_session(str(started.folder))
    if 1 in (os.getpid(), os.getppid()):
        atexit.register(_see_out, started)
    threading.Thread(
        target=_keep_exporter, args=(started,), name="codesign-exporter-watch", daemon=True
    ).start()
    if settings.plugins is None:
        logger.info(
            "codesign: tracing at level %s because VLLM_PLUGINS is not set and vLLM loads every "
            "plugin; CODESIGN_LEVEL=off switches it off",
            settings.level,
        )
    else:
        logger.info("codesign: tracing at level %s", settings.level)
    return started


def _see_out(owned: session.Session) -> None:
    """Wait until the exporter has written everything.

    In a container whose main process is the server (or the init above it), everything is
    killed with that process, and the last ten seconds of traces with the exporter.
    """
    if os.getpid() != owned.owner[0]:
        return  # a forked child runs its parent's exit handlers
    owned.close_down()
    deadline = time.monotonic() + _SEE_OUT_S
    while owned.folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _keep_exporter(owned: session.Session) -> None:
    """Start the exporter's standby, and again when it dies; both end with the server.

    The thread sleeps in waitpid: no polling and no GIL.
    """
    starts: list[float] = []
    while True:
        starts = [t for t in starts if time.monotonic() - t < 60]
        if len(starts) >= _RESTARTS_PER_MINUTE:
            logger.warning("codesign: the exporter died %d times in a minute; paused", len(starts))
            time.sleep(60)
            continue
        starts.append(time.monotonic())
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "vllm_codesign.exporter", str(owned.folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=settings_module.exporter_environment(),
                # Its own session: neither Ctrl-C nor a kill of the server's group reaches
                # it, so the last records still come out.
                start_new_session=True,
            )
        except OSError as error:
            logger.warning("codesign: the exporter does not start (%s); records are lost", error)
            return
        code = process.wait()
        if code == 0 or not owned.folder.exists():
            return
        logger.warning("codesign: the exporter ended with code %s; starting it again", code)
        time.sleep(0.2)


def take_role(role: str) -> None:
    """This process records from now on, as `role` (one process may have several)."""
    global _gave_up
    joined = start_or_join()
    if joined is None:
        return
    if not active.is_active():
        settings, _ = settings_module.load()
        try:
            active.activate(joined, "process", _ring_bytes(joined, role, settings.ring_bytes))
        except OSError as error:
            if not _gave_up:
                _gave_up = True
                _warn_of_no_ring(joined, error)
            return
        if settings.gil:
            gil.start()
    if role not in _roles:
        _roles.append(role)
        report_hooks()


ENGINE_SHARE = 4
"""EngineCore writes three records and more for each step, hundreds of times a second, and on few
cores the exporter may not run for half a minute beside processes that spin."""


def _ring_bytes(joined: session.Session, role: str, wanted: int) -> int:
    """Bytes of this process's ring: EngineCore's is larger, but leaves room for the others."""
    if role != "engine_core":
        return wanted
    return max(wanted, min(ENGINE_SHARE * wanted, joined.room(session.MAX_TOTAL_BYTES) // 4))


def _warn_of_no_ring(joined: session.Session, error: OSError) -> None:
    if joined.first_without_ring():
        logger.warning(
            "codesign: process %d, and perhaps others after it, records nothing: %s in %s; "
            "lower CODESIGN_RING_BYTES or free some room",
            os.getpid(),
            error.strerror or error,
            joined.folder,
        )


def report_hooks() -> None:
    """Leave the outcomes of this process's hooks where the exporter finds them."""
    global _unreported
    if active.session is None:
        return
    try:
        active.session.write_json(
            f"process-{os.getpid()}.hooks.json",
            {
                "pid": os.getpid(),
                "roles": _roles,
                "hooks": [o.as_dict() for o in installer.outcomes] if installer else [],
            },
        )
    except OSError as error:
        if not _unreported:  # or it would be said for every module that is imported from now on
            _unreported = True
            logger.warning("codesign: cannot write the hooks' outcomes (%s)", error)


def _forget() -> None:
    """In a forked child: it joins for itself, and the parent's exporter is not its own."""
    global _joined, _gave_up, _unreported
    _joined, _gave_up, _unreported = None, False, False
    _roles.clear()


os.register_at_fork(after_in_child=_forget)


def _frontend(*_: Any) -> None:
    take_role("api_server")


def _engine_manager(*_: Any) -> None:
    start_or_join()


def _scheduler(_t0: int, scheduler: Any) -> None:
    if installer is not None:
        installer.follow(scheduler)
    take_role("engine_core")


def _worker(_t0: int, worker: Any) -> None:
    if installer is not None:
        installer.follow(worker)
    take_role("worker")


TABLE = "session"
HOOKS: tuple[Hook, ...] = (
    Hook(
        "session.async_llm",
        ("vllm.v1.engine.async_llm:AsyncLLM.__init__",),
        entered(_frontend, always=True),
    ),
    Hook(
        "session.llm_engine",
        ("vllm.v1.engine.llm_engine:LLMEngine.__init__",),
        entered(_frontend, always=True),
    ),
    Hook(
        "session.engine_processes",
        ("vllm.v1.engine.utils:CoreEngineProcManager.__init__",),
        entered(_engine_manager, always=True),
    ),
    Hook(
        "session.scheduler",
        ("vllm.v1.core.sched.scheduler:Scheduler.__init__",),
        entered(_scheduler, always=True),
        ("self",),
    ),
    Hook(
        "session.worker",
        ("vllm.v1.worker.worker_base:WorkerBase.__init__",),
        entered(_worker, always=True),
        ("self",),
        required=False,
    ),
)
