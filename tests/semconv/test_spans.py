"""The spans of both traces."""

from __future__ import annotations

from vllm_codesign import semconv


def test_spans_are_told_apart_by_name() -> None:
    assert len(semconv.SPAN_BY_NAME) == len(semconv.SPANS)
    assert len({span.name for span in semconv.STEP_SPANS}) == len(semconv.STEP_SPANS)


def test_each_attribute_stands_once_on_a_span() -> None:
    for span in semconv.SPANS + semconv.STEP_SPANS:
        keys = [each.key for each in span.attributes]
        assert len(keys) == len(set(keys)), span.name


def test_gen_ai_only_where_a_viewer_may_draw_its_icon() -> None:
    """Jaeger draws a GenAI tab on every span with such a key; one per request is enough."""
    own = {"SERVER": semconv.SERVER.name, "without HTTP": semconv.ENGINE_REQUEST.name}
    for span in semconv.SPANS + semconv.STEP_SPANS:
        if any(each.key.startswith("gen_ai.") for each in span.attributes):
            assert span.name in own.values()
