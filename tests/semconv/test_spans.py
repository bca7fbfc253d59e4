"""The spans of both traces, and the page that is generated from them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from vllm_codesign import semconv

ROOT = Path(__file__).resolve().parents[2]


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


def test_span_page_is_what_its_generator_writes() -> None:
    generator = _load(ROOT / "docs" / "generate_spans.py")
    assert generator.PAGE.read_text() == generator.page(), "run `make docs`"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
