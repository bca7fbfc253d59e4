import functools
import inspect

import pytest

from vllm_codesign.hooks.exact import exact_parameters
from vllm_codesign.hooks.installer import getters_for
from vllm_codesign.hooks.wrap import timed
from vllm_codesign.recorder import active


@pytest.fixture(autouse=True)
def _awake(monkeypatch):
    monkeypatch.setattr(active.LEVEL, "byte", b"\1")


def _wrapped(original, reads=()):
    seen = []
    wrapper = timed(lambda t0, t1, result, *values: seen.append((result, *values)))(
        original, getters_for(original, reads)
    )
    return wrapper, seen


def test_defaults_and_keywords_reach_the_original_and_the_advice():
    marker = object()

    def method(self, request, tokens=7, external=marker):
        return (self, request, tokens, external)

    wrapper, seen = _wrapped(method, ("external", "request"))
    assert wrapper(1, 2) == (1, 2, 7, marker)
    assert wrapper(1, tokens=8, request=3, external=9) == (1, 3, 8, 9)
    assert seen == [((1, 2, 7, marker), marker, 2), ((1, 3, 8, 9), 9, 3)]
    assert inspect.signature(wrapper) == inspect.signature(method)
    assert wrapper.__qualname__ == method.__qualname__


def test_wrong_arguments_are_refused_as_before():
    def method(self, request):
        return None

    wrapper, seen = _wrapped(method)
    with pytest.raises(TypeError, match=r"method\(\) missing 1 required"):
        wrapper(1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        wrapper(1, 2, other=3)
    assert seen == []


def test_what_the_original_raises_comes_out_and_is_told():
    failures = []

    def method(self, request):
        raise KeyError(request)

    wrapper = timed(
        lambda *_: failures.append("after"),
        failed=lambda t0, t1, error, request: failures.append((type(error), request)),
    )(method, getters_for(method, ("request",)))
    with pytest.raises(KeyError, match="5"):
        wrapper(1, 5)
    assert failures == [(KeyError, 5)]


def _variadic(self, *args):
    return args


def _keyword_only(self, *, request):
    return request


def _keywords(self, **kwargs):
    return kwargs


@functools.wraps(_keyword_only)
def _decorated(self, request):
    return request


@pytest.mark.parametrize("original", [_variadic, _keyword_only, _keywords, _decorated, len])
def test_other_signatures_are_left_to_the_general_wrapper(original):
    assert exact_parameters(original, ()) is None


def test_the_general_wrapper_still_reads_by_name():
    wrapper, seen = _wrapped(_keyword_only, ("request",))
    assert wrapper(1, request=4) == 4
    assert seen == [(4, 4)]


def test_dormant_calls_pass_through(monkeypatch):
    monkeypatch.setattr(active.LEVEL, "byte", b"\0")

    def method(self, request):
        return request

    wrapper, seen = _wrapped(method, ("request",))
    assert wrapper(1, 2) == 2
    assert seen == []
