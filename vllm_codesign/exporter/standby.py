"""Keeps one exporter at work: a process that has imported everything and forks the one that works.

A new interpreter needs a second of CPU time for its imports. Beside engine and workers, which
spin on every core they get, that took 3 to 29 s on a machine with two cores, in which rings
overflowed. A fork is there at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

from vllm_codesign.exporter.serve import serve
from vllm_codesign.recorder.process import alive
from vllm_codesign.recorder.session import SessionGone, any_producer, join

logger = logging.getLogger(__name__)

LOOK_S = 0.25
FORKS_PER_MINUTE = 10
PAUSE_S = 60.0


def keep(folder: Path) -> int:
    """Return when the session is over; returns the exit code. Returns in forked children too."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    # A service manager signals everyone: it is the exporter that knows when to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        session = join(folder)
    except (OSError, SessionGone) as error:
        logger.error("codesign: %s is no session of a running server: %s", folder, error)
        return 1
    forks: list[float] = []
    while folder.exists():
        if alive(*session.exporter):
            time.sleep(LOOK_S)  # it outlived the standby before this one
            continue
        forks = [t for t in forks if time.monotonic() - t < 60]
        if len(forks) >= FORKS_PER_MINUTE:
            if not alive(*session.owner) and not any_producer(session):
                session.remove()
                return 1
            logger.warning("codesign: the exporter died %d times in a minute; paused", len(forks))
            time.sleep(PAUSE_S)
            continue
        forks.append(time.monotonic())
        child = os.fork()
        if child == 0:
            return serve(folder)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if folder.exists():
            logger.warning("codesign: the exporter ended with code %s; starting it again", code)
    return 0
