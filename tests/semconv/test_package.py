"""What the rooms declare is to be had from `vllm_codesign.semconv` itself."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from vllm_codesign import semconv

ROOMS = [info.name for info in pkgutil.iter_modules(semconv.__path__) if info.name != "metrics"]
"""Metrics are for the exporter, docs and dashboards: vLLM's processes do not load them."""


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_room_is_reexported(room: str) -> None:
    module = importlib.import_module(f"vllm_codesign.semconv.{room}")
    # What a room imports from another is re-exported, too; these come from elsewhere.
    names = {name for name in vars(module) if not name.startswith("_")}
    for name in names - {"annotations", "dataclass", "StrEnum"}:
        assert getattr(semconv, name) is getattr(module, name), name
