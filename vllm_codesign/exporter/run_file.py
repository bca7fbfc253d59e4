"""Keeps `run.json` of the capture: who runs, with which hooks, and what was lost."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from vllm_codesign import settings as settings_module
from vllm_codesign.recorder.session import Session
from vllm_codesign.store.capture import Capture, ClockAnchor, HookRow, RunInfo, create

logger = logging.getLogger(__name__)


def describe(session: Session) -> dict[str, Any]:
    """What the owner of the session wrote down about itself."""
    try:
        description: dict[str, Any] = json.loads((session.folder / "session.json").read_text())
    except (OSError, ValueError) as error:
        logger.warning("codesign: no description of the session: %s", error)
        return {}
    return description


def open_capture(
    store: Path, session: Session, settings: settings_module.Settings
) -> tuple[Capture, RunInfo]:
    """The capture of this session: a new one, or that of an exporter that died (OSError)."""
    description = describe(session)
    started = int(description.get("started_unix_ns", 0)) or session.folder.stat().st_mtime_ns
    names = ("codesign", "vllm", "torch", "python")
    run = RunInfo(
        run_id=session.folder.name,
        pid=session.owner[0],
        started_ns=started,
        versions={name: str(description[name]) for name in names if description.get(name)},
        level=settings_module.LEVELS[session.level],
        settings={
            "level": description.get("level", ""),
            "ring_bytes": description.get("ring_bytes", 0),
            "argv": description.get("argv", []),
            "keep_records": settings.keep_records,
        },
    )
    capture = create(store, run)
    return capture, capture.load()


def hook_rows(session: Session) -> list[HookRow]:
    """Outcomes of all hooks in all processes that have reported so far."""
    rows = []
    for path in sorted(session.folder.glob("*.hooks.json")):
        try:
            report = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            logger.warning("codesign: %s: %s", path.name, error)
            continue
        role = "+".join(report["roles"])
        rows += [
            HookRow(
                process=path.name.removesuffix(".hooks.json"),
                pid=report["pid"],
                role=role,
                row=f"{hook['table']}/{hook['id']}",
                target=hook["target"],
                status=hook["status"],
                detail=hook["detail"],
            )
            for hook in report["hooks"]
        ]
    return rows


class Roles:
    """What each process of the session is, from its report of the hooks; read when it changes."""

    def __init__(self, session: Session) -> None:
        self._folder = session.folder
        self._known: dict[Path, tuple[int, int, str]] = {}

    def look(self) -> dict[int, str]:
        """`api_server`, `engine_core`, `worker`, or several with `+`, by pid."""
        for path in self._folder.glob("*.hooks.json"):
            try:
                changed = path.stat().st_mtime_ns
                if path in self._known and self._known[path][0] == changed:
                    continue
                report = json.loads(path.read_text())
                self._known[path] = (changed, int(report["pid"]), "+".join(report["roles"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                # `hook_rows` says it; a role that is not known is left out.
                logger.debug("codesign: %s: %s", path.name, error)
        return {pid: role for _, pid, role in self._known.values()}


def anchors(readings: list[tuple[int, int]]) -> list[ClockAnchor]:
    return [ClockAnchor(monotonic_ns=m, unix_ns=u) for m, u in readings]
