"""The cases run: no advice fails on its stand-ins, and each has a figure."""

from __future__ import annotations

from benchmarks.micro_cases import engine_cases, frontend_cases, general_cases
from benchmarks.micro_kv_cases import connector_cases
from benchmarks.micro_recording import micro


def test_all_cases_run_in_a_process_of_their_own() -> None:
    found = micro(2)
    cases = [*general_cases(), *engine_cases(), *frontend_cases(), *connector_cases()]
    assert set(found) == {case.name for case in cases if case.more_than}
    assert found["record"].median > 0
