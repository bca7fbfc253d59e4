"""What `codesign doctor` finds in the classes of KV connectors, which are wrapped when one is made.

Without a server none is made, so the classes that vLLM's factory names are held against the rows
that they would get.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from vllm_codesign.cli.checks import Finding
from vllm_codesign.hooks import kv_connector
from vllm_codesign.hooks.installer import SignatureChanged, getters_for
from vllm_codesign.hooks.table import Outcome, Status

USUAL = ("LMCacheConnectorV1", "LMCacheMPConnector")
"""Looked at without being asked for."""

_FACTORY = "vllm.distributed.kv_transfer.kv_connector.factory"


def find(name: str) -> type:
    """The class that vLLM makes for this `kv_connector`; raises whatever its import does."""
    factory: Any = importlib.import_module(_FACTORY).KVConnectorFactory
    found: type = factory.get_connector_class_by_name(name)
    return found


def outcomes(names: Iterable[str]) -> tuple[list[Outcome], dict[str, str]]:
    """The rows of each class, and by name why a class could not be had."""
    rows: list[Outcome] = []
    absent: dict[str, str] = {}
    for name in names:
        try:
            cls = find(name)
        except Exception as error:  # noqa: BLE001  # a connector's module may raise anything
            absent[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            rows += _of(cls)
    return rows, absent


def _of(cls: type) -> Iterator[Outcome]:
    for method, hook in kv_connector.rows_of(cls):
        outcome = Outcome(hook, kv_connector.TABLE, Status.INSTALLED, hook.targets[0])
        try:
            getters_for(getattr(cls, method.name), hook.reads)
        except SignatureChanged as error:
            outcome.status, outcome.detail = Status.SIGNATURE_CHANGED, str(error)
        yield outcome


def findings(
    wanted: Iterable[str], rows: Iterable[Outcome], absent: dict[str, str]
) -> Iterator[Finding]:
    """Classes that are not there; where they or their rows are `wanted`, that is an error."""
    asked = set(wanted)
    for name, reason in absent.items():
        text = f"cannot be imported: {reason}; nothing of it would be traced"
        if name in asked:
            yield Finding("error", f"connector {name}", f"{text}: install it, or do not name it")
        else:
            yield Finding("note", f"connector {name}", text)
    for outcome in rows:
        if outcome.status is not Status.INSTALLED:
            what = f"{outcome.target}: {outcome.status.value}, {outcome.detail}"
            cure = "its figures will be absent: use a supported version of it or report this"
            subject, text = f"hook {outcome.hook.id}", f"{what}; {cure}"
            yield Finding("error" if asked else "warning", subject, text)
