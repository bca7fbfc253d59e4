"""The sampled series, held against OpenTelemetry's metrics of hardware."""

from __future__ import annotations

import importlib
import inspect
import re

from vllm_codesign import semconv


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
    defined = [
        value for value in vars(semconv.series).values() if isinstance(value, semconv.Series)
    ]
    assert defined == list(semconv.SERIES)
    assert len({series.name for series in defined}) == len(defined)
    assert all(series.unit and series.brief for series in defined)
