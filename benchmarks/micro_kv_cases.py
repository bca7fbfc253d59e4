"""What is timed of the connector hooks: calls of vLLM that leave no record of their own.

Their rows are laid on the class of a connector when it is made, so the stand-in is one: a class
with the methods' names, wrapped as the table would wrap them.
"""

from __future__ import annotations

from types import SimpleNamespace as Stub
from typing import Any

from benchmarks.micro_cases import Case, calls
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.hooks.kv_connector import METHODS
from vllm_codesign.hooks.kv_state import CONNECTORS


class _Connector:
    """Nothing to load, nothing to store: what a connector is asked in every step."""

    def get_finished(self, finished_req_ids: Any) -> Any:
        return None, None

    def build_connector_meta(self, scheduler_output: Any) -> Any:
        return _NOTHING

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any) -> None:
        return None


_NOTHING = Stub(requests=())


def connector_cases() -> list[Case]:
    """One call each: of a poll, of a plan, of a layer."""
    connector = _Connector()
    CONNECTORS.add(connector)
    make = {method.name: method for method in METHODS}
    found = []
    for name, case, arguments in (
        ("get_finished", "connector_poll", (set(),)),
        ("build_connector_meta", "connector_plan", (Stub(),)),
        ("save_kv_layer", "connector_layer", ("0", None, None)),
    ):
        plain = getattr(_Connector, name)
        method = make[name]
        hooked = method.make(plain, getters_for(plain, ("self", *method.reads)))
        found += [
            Case(f"plain_{case}", calls(plain, connector, *arguments), ""),
            Case(case, calls(hooked, connector, *arguments), f"plain_{case}", level=2),
        ]
    return found
