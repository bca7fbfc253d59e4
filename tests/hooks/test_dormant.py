"""Dormant wrappers, and what keeps them awake."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.hooks.wrap import Make, entered, timed, timed_async
from vllm_codesign.recorder.active import LEVEL

SEEN: list[str] = []
OPEN: set[str] = set()


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    SEEN.clear()
    OPEN.clear()
    yield
    LEVEL.byte = b"\0"


def _plain(what: str) -> str:
    return what.upper()


async def _coroutine(what: str) -> str:
    return what.upper()


def _call(make: Make, reads: tuple[str, ...]) -> str:
    return str(make(_plain, getters_for(_plain, reads))("a"))


def _call_async(make: Make, reads: tuple[str, ...]) -> str:
    return str(asyncio.run(make(_coroutine, getters_for(_coroutine, reads))("a")))


CALLS = [
    pytest.param(
        _call, timed(lambda t0, t1, r, w: SEEN.append(w), while_open=OPEN), ("what",), id="timed"
    ),
    pytest.param(
        _call, timed(lambda t0, t1, r: SEEN.append(r), while_open=OPEN), (), id="timed, no value"
    ),
    pytest.param(
        _call, entered(lambda t0, w: SEEN.append(w), while_open=OPEN), ("what",), id="entered"
    ),
    pytest.param(
        _call_async,
        timed_async(lambda t0, t1, r, w: SEEN.append(w), while_open=OPEN),
        ("what",),
        id="timed_async",
    ),
]


@pytest.mark.parametrize(("call", "make", "reads"), CALLS)
def test_a_dormant_wrapper_only_calls(call, make, reads) -> None:  # type: ignore[no-untyped-def]
    assert call(make, reads) == "A"
    assert SEEN == []


@pytest.mark.parametrize(("call", "make", "reads"), CALLS)
def test_what_began_traced_keeps_it_awake(call, make, reads) -> None:  # type: ignore[no-untyped-def]
    OPEN.add("a request")
    assert call(make, reads) == "A"
    assert len(SEEN) == 1
    OPEN.clear()
    assert call(make, reads) == "A"
    assert len(SEEN) == 1


@pytest.mark.parametrize(("call", "make", "reads"), CALLS)
def test_a_level_wakes_it(call, make, reads) -> None:  # type: ignore[no-untyped-def]
    LEVEL.byte = b"\1"
    assert call(make, reads) == "A"
    assert len(SEEN) == 1
