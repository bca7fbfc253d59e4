"""A `Sender` whose receiver is away, refuses, hangs or is too slow: bounded, counted, told once."""

from __future__ import annotations

import time

import pytest

from tests.exporter.sending import (
    RECEIVERS,
    START,
    TRACE,
    AnyReceiver,
    make_trace,
    our_log,
    sender_for,
)
from tests.support.otlp_receiver import GrpcReceiver, SilentListener, free_port, wait_until
from vllm_codesign.exporter.otlp import Sender
from vllm_codesign.model.trace import RequestTrace, Span


def test_an_endpoint_that_comes_up_while_the_sdk_retries() -> None:
    port = free_port()
    sender = Sender.from_environment(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "1"},
        {},
    )
    sender.send(make_trace())
    time.sleep(0.2)
    with GrpcReceiver(port) as receiver:
        receiver.received.wait(3)
        wait_until(lambda: sender.stats()["sent"] == 3)
        assert sender.close(5)


@pytest.mark.parametrize("kind", RECEIVERS, ids=lambda kind: kind.protocol)
def test_an_outage_is_logged_once_and_its_end_too(
    kind: type[AnyReceiver], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    # The SDK's exporters wait 0.8 s at least before the second try: here they give up before.
    sender = Sender.from_environment(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": kind.protocol,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "0.7",
        },
        {},
    )
    for number in range(3):
        sender.send(make_trace(number))
        assert sender.flush(5)
    assert sender.stats() == {"sent": 0, "queued": 0, "dropped": 0, "failed": 9}
    (line,) = our_log(caplog)
    assert line.startswith(f"sending spans to {sender.destination} fails")
    assert f"127.0.0.1:{port}" in sender.destination
    assert "Failed to export" in line
    assert "\n" not in line

    caplog.clear()
    with kind(port) as receiver:
        for number in range(3, 5):
            sender.send(make_trace(number))
            assert sender.flush(5)
        assert len(receiver.received.wait(6)) == 6
        assert sender.close(5)
    assert our_log(caplog) == [f"sending spans to {sender.destination} works again; 9 were lost"]
    assert sender.stats() == {"sent": 6, "queued": 0, "dropped": 0, "failed": 9}


def test_the_cause_is_told_where_only_the_first_try_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sender = Sender.from_environment(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1.5",  # room for one retry after 1 s, +- 20 %
        },
        {},
    )
    sender.send(make_trace())
    assert sender.flush(5)
    (line,) = our_log(caplog)
    assert "Connection refused" in line
    sender.close(1)


def test_a_receiver_that_refuses_is_an_outage(receiver: AnyReceiver) -> None:
    receiver.refuse = True
    sender = sender_for(receiver, OTEL_EXPORTER_OTLP_TIMEOUT="0.3")
    sender.send(make_trace())
    assert sender.flush(5)
    assert sender.stats()["failed"] == 3
    assert receiver.received.spans == []
    sender.close(5)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_close_is_bounded_where_nobody_answers(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    with SilentListener() as silent:
        sender = Sender.from_environment(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": silent.endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_EXPORTER_OTLP_TIMEOUT": "20",
            },
            {},
        )
        sender.send(make_trace())
        begin = time.monotonic()
        assert not sender.flush(0.2)
        assert not sender.flush(0.2)
        assert not sender.close(0.5)
        assert time.monotonic() - begin < 5.0
        assert sum(sender.stats().values()) == 3
        assert sender.stats()["sent"] == 0
        assert "3 spans" in caplog.text
        sender.send(make_trace(1))
        assert sender.stats()["dropped"] >= 3


def test_close_is_bounded_and_late_answers_count(receiver: AnyReceiver) -> None:
    receiver.hang_s = 20
    sender = sender_for(receiver, OTEL_BSP_SCHEDULE_DELAY="1", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="3")
    sender.send(make_trace(0))
    wait_until(lambda: sender._exporter.taken == 3)
    sender.send(make_trace(1))
    assert not sender.close(0.5)
    assert sender.stats()["dropped"] == 3
    receiver.release.set()
    wait_until(lambda: sender.stats()["queued"] == 0)
    stats = sender.stats()
    # gRPC ends the call on close, HTTP cannot: its answer may still come.
    assert stats["sent"] + stats["failed"] == 3
    assert stats["dropped"] == 3


def test_a_full_queue_drops_whole_traces_and_says_so_once(
    receiver: AnyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.hang_s = 20
    sender = sender_for(receiver, OTEL_BSP_MAX_QUEUE_SIZE="8", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="1")
    for number in range(10):
        begin = time.monotonic()
        sender.send(make_trace(number))
        assert time.monotonic() - begin < 1.0
    stats = sender.stats()
    assert stats["dropped"] % 3 == 0
    assert stats["dropped"] + stats["queued"] == 30
    # At most one batch of one span is on its way; the queue holds no more than two traces.
    assert stats["queued"] in (6, 9)
    (line,) = our_log(caplog)
    assert line.startswith("the queue to")
    assert "OTEL_BSP_MAX_QUEUE_SIZE" in line
    receiver.release.set()
    receiver.hang_s = 0
    assert sender.flush(5)
    assert all(len(spans) == 3 for spans in receiver.received.traces().values())
    sender.send(make_trace(99))
    assert sender.close(5)
    assert sender.stats()["dropped"] == stats["dropped"]


def test_a_trace_larger_than_the_queue_goes_as_far_as_it_fits(receiver: AnyReceiver) -> None:
    sender = sender_for(receiver, OTEL_BSP_MAX_QUEUE_SIZE="8")
    sender.send(make_trace(children=20))
    assert sender.close(5)
    assert sender.stats() == {"sent": 8, "queued": 0, "dropped": 13, "failed": 0}
    assert receiver.received.wait(8)[0].kind == "server"


def test_one_span_that_cannot_be_encoded_costs_its_batch_only(
    receiver: AnyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    sender = sender_for(receiver)
    lone_surrogate = Span("\ud800", "vllm", TRACE, 1, 0, START, START)
    sender.send(RequestTrace(lone_surrogate, ()))
    assert sender.flush(5)
    sender.send(make_trace())
    assert sender.flush(5)
    assert sender.stats() == {"sent": 3, "queued": 0, "dropped": 0, "failed": 1}
    assert "surrogates not allowed" in caplog.text
    sender.close(5)


def test_close_twice(receiver: AnyReceiver) -> None:
    sender = sender_for(receiver)
    assert sender.close(5)
    assert sender.close(5)
    sender.send(make_trace())
    assert sender.stats() == {"sent": 0, "queued": 0, "dropped": 3, "failed": 0}
    assert sender.flush(0)
