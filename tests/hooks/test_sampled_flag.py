"""The flag that vLLM's own span gets is the exporter's decision about the same trace."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.support.traces import completed
from vllm_codesign import settings
from vllm_codesign.exporter.otlp import Sender
from vllm_codesign.hooks.root import Root

SAMPLERS = [
    {},
    {"OTEL_TRACES_SAMPLER": "always_on"},
    {"OTEL_TRACES_SAMPLER": "always_off"},
    {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.3"},
    {"OTEL_TRACES_SAMPLER": "parentbased_always_on"},
    {"OTEL_TRACES_SAMPLER": "parentbased_always_off"},
    {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.7"},
    {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
    {"OTEL_TRACES_SAMPLER": "Traceidratio"},
]


@pytest.mark.parametrize("variables", SAMPLERS, ids=str)
def test_both_processes_decide_the_same(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "_OTEL_AS_GIVEN", variables)
    sender = Sender.from_environment({"OTEL_TRACES_EXPORTER": "console", **variables}, {})
    rng = random.Random(1)
    template = completed(1, 0, 1.0).root
    try:
        for number in range(400):
            root = Root()
            root.make_trace_id()
            if number % 2:
                flags = number // 2 % 2
                context = f"00-{rng.getrandbits(128) | 1:032x}-{rng.getrandbits(64) | 1:016x}"
                root.adopt(f"{context}-{flags:02x}".encode())
            span = replace(template, trace_id=root.trace_id, parent_id=root.parent_id)
            parent = bool(root.flags & 1) if root.has_parent else None
            assert root.traceparent().endswith(f"{sender.sampled(span, parent):02x}")
    finally:
        sender.close(1.0)


def test_a_bad_ratio_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"}
    monkeypatch.setattr(settings, "_OTEL_AS_GIVEN", given)
    assert settings.sampling() == (False, 1 << 64)
