"""What a root tells, when, and how often."""

from __future__ import annotations

import warnings
from typing import Any

import pydantic
import pytest

from vllm_codesign.hooks import http, wrap
from vllm_codesign.hooks.frontend_state import CURRENT
from vllm_codesign.hooks.root import Root
from vllm_codesign.recorder.layout import Ending, Kind


class Body(pydantic.BaseModel):
    model: str
    max_tokens: int | None = pydantic.Field(default=None, deprecated="use another")


def at_the_endpoint(body: object) -> Root:
    root = Root()
    token = CURRENT.set(root)
    http._on_endpoint(70, {"request": body})
    CURRENT.reset(token)
    return root


def test_each_fact_is_told_once_and_the_rest_at_the_end(recording: Any) -> None:
    root = at_the_endpoint(Body(model="m", max_tokens=3))
    root.last_in, root.body_bytes = 60, 9
    root.resumed = [(80, 90), (100, 110)]
    assert recording.take() == []
    root.tell()
    told = recording.take()
    assert [r.kind for r in told] == [
        Kind.RESUMED,
        Kind.RESUMED,
        Kind.ROOT_RECEIVED,
        Kind.ROOT_PARAMS,
        Kind.TEXT,
    ]
    assert [(r.t0, r.t1) for r in told[:3]] == [(80, 90), (100, 110), (60, 70)]
    assert (told[2].a, told[3].t0) == (9, 3)
    root.tell()
    assert recording.take() == []
    root.taken_at, root.headers_at, root.last_out, root.complete = 120, 95, 130, True
    root.tell_end(130, 0)
    end = recording.take()
    assert [r.kind for r in end] == [Kind.TAKEN, Kind.ROOT_STREAM, Kind.ROOT_END]
    assert (end[0].t0, end[2].t0, end[2].s) == (120, 130, Ending.COMPLETE)
    assert root.ended


def test_a_request_that_is_refused_tells_all_at_its_end(recording: Any) -> None:
    root = at_the_endpoint(Body(model="m"))
    root.tell_end(200, Ending.RAISED)
    kinds = [r.kind for r in recording.take()]
    assert kinds == [Kind.ROOT_RECEIVED, Kind.ROOT_PARAMS, Kind.TEXT, Kind.ROOT_END]


def test_one_that_never_reached_its_endpoint_says_so(recording: Any) -> None:
    root = Root()
    root.last_in, root.body_bytes = 60, 9
    root.tell_end(200, 0)
    received, _end = recording.take()
    assert (received.kind, received.t0, received.t1, received.a) == (
        Kind.ROOT_RECEIVED,
        60,
        0,
        9,
    )


def test_reading_a_deprecated_field_warns_nobody(recording: Any) -> None:
    body = Body(model="m", max_tokens=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        root = at_the_endpoint(body)
        root.tell()
    assert next(r.t0 for r in recording.take() if r.kind == Kind.ROOT_PARAMS) == 3


def test_whatever_cannot_be_told_the_request_ends(
    recording: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root without its end would be kept, and with it every step since it began."""
    monkeypatch.setattr(wrap, "_strict", False)
    root = at_the_endpoint(Body(model="m"))
    root.body = {"model": "m", "temperature": 10**400, "top_p": 0.5, "stream": Unspeakable()}
    root.tell_end(200, 0)
    assert [r.kind for r in recording.take()] == [Kind.ROOT_RECEIVED, Kind.ROOT_END]
    assert root.ended


class Unspeakable:
    def __bool__(self) -> bool:
        raise RuntimeError("mine")


def test_a_number_that_no_double_holds_is_none(recording: Any) -> None:
    root = at_the_endpoint(Body(model="m"))
    root.body = {"model": "m", "temperature": 10**400}
    root.tell()
    assert next(r.a for r in recording.take() if r.kind == Kind.ROOT_PARAMS) == -1
