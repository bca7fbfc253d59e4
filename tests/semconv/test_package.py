"""What the rooms declare is to be had from `vllm_codesign.semconv` itself."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from vllm_codesign import semconv

ROOMS = [info.name for info in pkgutil.iter_modules(semconv.__path__)]


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_room_is_reexported(room: str) -> None:
    module = importlib.import_module(f"vllm_codesign.semconv.{room}")
    # What a room imports, it does not declare; the standard library has two names in them.
    names = {name for name in vars(module) if not name.startswith("_")}
    names -= {"annotations", "dataclass", "StrEnum"}
    assert names - {"PER_ENGINE_REQUEST"} <= set(vars(semconv))
    assert all(getattr(semconv, n) is getattr(module, n) for n in names - {"PER_ENGINE_REQUEST"})
