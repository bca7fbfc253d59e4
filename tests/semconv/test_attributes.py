"""The attributes of every room, held against OpenTelemetry's own constants."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import re

import pytest

from vllm_codesign import semconv
from vllm_codesign.semconv import Attribute


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


def test_each_attribute_is_used() -> None:
    spans = semconv.SPANS + semconv.STEP_SPANS
    used = {each.key for span in spans for each in span.attributes}
    used |= {each.key for each in semconv.STEP_LINK}
    used |= {each.key for series in semconv.SERIES for each in series.attributes}
    used |= {each.key for each in (semconv.EVENT_TOKENS_LOST, *semconv.EVICTED)}
    used |= {each.key for each in semconv.STORED}
    assert {each.key for each in ATTRIBUTES} == used
