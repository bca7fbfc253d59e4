"""Targets are found by name, and so are arguments."""

import sys
from typing import Any

import pytest

from vllm_codesign.hooks.installer import getters_for, locate, release


@pytest.mark.parametrize(
    ("args", "kwargs", "want"),
    [
        (("s", 1), {}, ("s", 1, 2, 3)),
        (("s",), {"x": 1}, ("s", 1, 2, 3)),
        (("s", 1, 5), {"z": 6}, ("s", 1, 5, 6)),
        ((), {"z": 9, "y": 8, "x": 7, "self": "s"}, ("s", 7, 8, 9)),
    ],
)
def test_getters_bind_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], want: tuple[Any, ...]
) -> None:
    def f(self: Any, x: int, y: int = 2, *, z: int = 3) -> None: ...

    getters = getters_for(f, ("self", "x", "y", "z"))
    assert tuple(get(args, kwargs) for get in getters) == want


def test_locate() -> None:
    found = locate(sys.modules[__name__], "Outer.Inner.method")
    assert found is not None
    assert found[0] is Outer.Inner
    assert found[1:] == ("method", Outer.Inner.__dict__["method"])
    for path in ("Outer.Inner.value", "Outer.method", "Outer.Inner.method.x", "nothing"):
        assert locate(sys.modules[__name__], path) is None


class Outer:
    class Inner:
        value = 3

        def method(self) -> None: ...


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("0.32.0+cpu", (0, 32, 0)),
        ("0.19", (0, 19)),
        ("0.32.0rc1.dev3", (0, 32, 0)),
        ("", ()),
        ("dev", ()),
    ],
)
def test_release(version: str, numbers: tuple[int, ...]) -> None:
    assert release(version) == numbers
