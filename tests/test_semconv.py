"""The names in `vllm_codesign.semconv`, held against OpenTelemetry's own constants."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

from vllm_codesign import semconv
from vllm_codesign.semconv import Attribute

ROOT = Path(__file__).resolve().parents[1]


def _attributes() -> list[Attribute]:
    found: list[Attribute] = []
    for value in vars(semconv).values():
        if isinstance(value, Attribute):
            found.append(value)
        elif isinstance(value, tuple):
            found += [each for each in value if isinstance(each, Attribute)]
    return found


def _opentelemetry_names() -> set[str]:
    """Every attribute key that the installed OpenTelemetry package has a constant for."""
    names: set[str] = set()
    for package_name in (
        "opentelemetry.semconv.attributes",
        # The GenAI names are still here, under a name that begins with an underscore.
        "opentelemetry.semconv._incubating.attributes",
    ):
        package = importlib.import_module(package_name)
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package_name}.{info.name}")
            names |= {v for v in vars(module).values() if isinstance(v, str) and "." in v}
    return names


ATTRIBUTES = _attributes()
THEIRS = [each.key for each in ATTRIBUTES if not each.key.startswith("codesign.")]


@pytest.mark.parametrize("key", THEIRS)
def test_name_is_opentelemetrys(key: str) -> None:
    version = importlib.metadata.version("opentelemetry-semantic-conventions")
    if key in _opentelemetry_names():
        return
    if version == "0.61b0":
        pytest.skip(f"{key} came after semantic conventions {version}")
    pytest.fail(f"{key} is not a constant of semantic conventions {version}")


def test_names_outside_our_prefix_are_of_known_families() -> None:
    families = {key.split(".")[0] for key in THEIRS}
    assert families == {"gen_ai", "http", "session", "error", "hw", "process", "thread"}


def test_one_meaning_per_key() -> None:
    by_key: dict[str, Attribute] = {}
    for attribute in ATTRIBUTES:
        assert by_key.setdefault(attribute.key, attribute) == attribute


def test_keys_and_units_agree() -> None:
    for attribute in ATTRIBUTES:
        assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", attribute.key), attribute.key
        for suffix in ("ns", "us"):
            assert attribute.key.endswith(f"_{suffix}") == (attribute.unit == suffix), attribute.key
        assert attribute.type.removesuffix("[]") in {"string", "int", "double", "boolean"}
        assert attribute.brief, attribute.key


def test_spans_are_told_apart_by_name() -> None:
    assert len(semconv.SPAN_BY_NAME) == len(semconv.SPANS)
    assert len({span.name for span in semconv.STEP_SPANS}) == len(semconv.STEP_SPANS)


def test_each_attribute_stands_once_on_a_span() -> None:
    for span in semconv.SPANS + semconv.STEP_SPANS:
        keys = [each.key for each in span.attributes]
        assert len(keys) == len(set(keys)), span.name


def test_each_attribute_is_used() -> None:
    spans = semconv.SPANS + semconv.STEP_SPANS
    used = {each.key for span in spans for each in span.attributes}
    used |= {each.key for each in semconv.STEP_LINK}
    used |= {each.key for series in semconv.SERIES for each in series.attributes}
    used.add(semconv.EVENT_TOKENS_LOST.key)
    assert {each.key for each in ATTRIBUTES} == used


def test_gen_ai_only_where_a_viewer_may_draw_its_icon() -> None:
    """Jaeger draws a GenAI tab on every span with such a key; one per request is enough."""
    own = {"SERVER": semconv.SERVER.name, "without HTTP": semconv.ENGINE_REQUEST.name}
    for span in semconv.SPANS + semconv.STEP_SPANS:
        if any(each.key.startswith("gen_ai.") for each in span.attributes):
            assert span.name in own.values()


def _opentelemetry_metrics() -> dict[str, str]:
    """Unit of every metric of hardware that the installed OpenTelemetry package has."""
    module = importlib.import_module("opentelemetry.semconv._incubating.metrics.hw_metrics")
    source = inspect.getsource(module)
    found = re.findall(r'^HW_\w+: Final = "([^"]+)"\n"""(.*?)"""', source, re.M | re.S)
    return {name: re.search(r"^Unit: (\S+)", text, re.M)[1] for name, text in found}  # type: ignore[index]


def test_series_of_hardware_are_opentelemetrys() -> None:
    theirs = {series for series in semconv.SERIES if not series.name.startswith("codesign.")}
    assert len(theirs) == 5
    metrics = _opentelemetry_metrics()
    for series in theirs:
        assert metrics[series.name] == series.unit, series.name
        # The conventions require these two on every metric of hardware.
        assert {semconv.HW_ID, semconv.HW_TYPE} <= set(series.attributes)


def test_every_series_is_listed_once() -> None:
    defined = [value for value in vars(semconv).values() if isinstance(value, semconv.Series)]
    assert defined == list(semconv.SERIES)
    assert len({series.name for series in defined}) == len(defined)
    assert all(series.unit and series.brief for series in defined)


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
