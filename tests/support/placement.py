"""Cores for a server under test, so that a machine with two of them tests the server.

EngineCore and the worker spin while they wait, and beside them on two cores any other process,
the tests' own client too, may stand still for seconds (see vllm_codesign/bench/placement.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.faults import roles
from vllm_codesign.bench.placement import pin, place
from vllm_codesign.recorder.session import Session

FEW = 2


@contextmanager
def apart(session: Session) -> Iterator[None]:
    """What spins on one core, the rest of the server and this process on the other.

    Nothing where there are more cores than that, or several engines or workers to place.
    """
    available = os.sched_getaffinity(0)
    pids = roles(session)
    if len(available) != FEW or not {"api_server", "engine_core", "worker"} <= pids.keys():
        yield
        return
    place(pids, (session.exporter[0], os.getpid()))
    try:
        yield
    finally:
        pin(os.getpid(), available)
