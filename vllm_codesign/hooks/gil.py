"""Contention for the GIL in this process, once a second, where `CODESIGN_GIL=1` asks for it.

`gilknocker`'s own thread, in Rust, asks for the GIL every 10 ms in half of all tenths of a
second. Its figure is the share of that time spent waiting: 0 where nobody has the GIL, a third
where one Python thread never lets go of it (it is asked to after 5 ms), more where several want
it. The one import inside vLLM beside the standard library and wrapt, and only on request: it
cost a busy Python loop up to 4 %.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import threading
import time
from typing import Any

from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import LEVEL, clock
from vllm_codesign.recorder.layout import Kind

logger = logging.getLogger("vllm.codesign")

INTERVAL_S = 1.0
LOOKS = 1_000_000
"""gilknocker tells a share and no counts: it is recorded in millionths."""
MISSING = "CODESIGN_GIL=1 needs a package that is not there: pip install gilknocker"
_POLLING_US, _SAMPLING_US, _SLEEPING_US = 10_000, 100_000, 100_000

_running = False


def installed() -> bool:
    return importlib.util.find_spec("gilknocker") is not None


def start() -> None:
    """Begin, once in a process that has a ring. Without the package nothing happens."""
    global _running
    if _running or not installed():
        return
    try:
        knocker = importlib.import_module("gilknocker").KnockKnock(
            polling_interval_micros=_POLLING_US,
            sampling_interval_micros=_SAMPLING_US,
            sleeping_interval_micros=_SLEEPING_US,
        )
    except Exception as error:  # noqa: BLE001  # the server comes up all the same
        logger.warning("codesign: no GIL contention: %s: %s", type(error).__name__, error)
        return
    _running = True
    threading.Thread(target=_watch, args=(knocker,), name="codesign-gil", daemon=True).start()


def _watch(knocker: Any) -> None:
    """Record until this process has no ring any more; while the level is off nobody knocks."""
    global _running
    knocking = False
    try:
        while active.is_active():
            if not LEVEL.byte[0]:
                if knocking:
                    knocker.stop()
                    knocking = False
                time.sleep(INTERVAL_S)
                continue
            if not knocking:
                knocker.start()
                knocking = True
            knocker.reset_contention_metric()
            begin = clock()
            time.sleep(INTERVAL_S)
            share = min(1.0, max(0.0, float(knocker.contention_metric)))
            active.emit(Kind.GIL, 0, begin, clock(), round(share * LOOKS), LOOKS)
    except Exception as error:  # noqa: BLE001  # a thread of ours may end, vLLM goes on
        active.count_error()
        logger.warning("codesign: no more GIL contention: %s: %s", type(error).__name__, error)
    finally:
        _running = False
        if knocking:
            knocker.stop()


def _forget() -> None:
    """In a forked child there is no such thread."""
    global _running
    _running = False


os.register_at_fork(after_in_child=_forget)
