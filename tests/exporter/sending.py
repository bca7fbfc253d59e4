"""A trace to send, a `Sender` for a receiver, and what a user then reads."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.otlp_receiver import GrpcReceiver, HttpReceiver
from vllm_codesign.exporter.otlp import Sender
from vllm_codesign.model.trace import RequestTrace, Span

START = 1_700_000_000_123_456_789
TRACE = 0x0AF7651916CD43DD8448EB211C80319C
CALLER = 0xB7AD6B7169203331
RECEIVERS = [GrpcReceiver, HttpReceiver]
AnyReceiver = GrpcReceiver | HttpReceiver


def make_trace(number: int = 0, children: int = 2, **attributes: Any) -> RequestTrace:
    """One trace; `number` sets its ids apart."""
    trace_id, root_id = TRACE + number, 1000 * (number + 1)
    root = Span(
        "POST /v1/chat/completions",
        "vllm",
        trace_id,
        root_id,
        CALLER,
        START,
        START + 5_000_000,
        kind="server",
        attributes=attributes,
        trace_state="vendor=a:b,other=1",
    )
    return RequestTrace(
        root,
        tuple(
            Span("prefill", "vllm-engine", trace_id, root_id + n, root_id, START + n, START + n + 7)
            for n in range(1, children + 1)
        ),
    )


def our_log(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a user sees: newer pytest also captures loggers that do not propagate."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("vllm_codesign")]


def sender_for(receiver: AnyReceiver, **variables: str) -> Sender:
    return Sender.from_environment({**receiver.environ, **variables}, {})
