"""What leaves a `Sender` and arrives at a receiver that knows none of its code."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import certifi
import pytest

from tests.exporter.sending import RECEIVERS, START, TRACE, AnyReceiver, make_trace, sender_for
from tests.support.otlp_receiver import (
    CountingRelay,
    HttpReceiver,
    ReceivedSpan,
)
from vllm_codesign import __version__
from vllm_codesign.exporter.otlp import Sender
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import RequestTrace, Span, SpanEvent, SpanLink

EVERY_TYPE: dict[str, Any] = {
    "string": "plain",
    "unicode": "größer 你好 🙂 \u0000 end",
    "empty": "",
    "true": True,
    "false": False,
    "int": -(2**63),
    "large": 2**63 - 1,
    "double": 0.1,
    "strings": ("a", "ß", ""),
    "ints": tuple(range(4000)),
    "doubles": (0.5, -1e300),
    "booleans": (True, False),
    "nothing": (),
}


def rich_trace() -> RequestTrace:
    root = make_trace(**EVERY_TYPE).root
    decode = Span(
        "decode",
        "vllm-engine",
        TRACE,
        2,
        root.span_id,
        START + 1,
        START + 1,
        attributes={"codesign.decode.itl_us": (10, 20)},
        events=(
            SpanEvent("codesign.preempted", START + 1, {"codesign.tokens.lost": 7}),
            SpanEvent("codesign.preempted", START + 2),
        ),
        links=(SpanLink(TRACE ^ 1, 99, {"codesign.link": "step"}), SpanLink(5, 6)),
        status="error",
        status_message="engine died: größer",
    )
    nested = Span("kv.allocate", "vllm-engine", TRACE, 3, 2, START, START, status="ok")
    return RequestTrace(root, (decode, nested))


def assert_same(got: ReceivedSpan, want: Span) -> None:
    for name in ("name", "service", "trace_id", "span_id", "parent_id", "start_ns", "end_ns"):
        assert getattr(got, name) == getattr(want, name), name
    for name in ("kind", "status", "status_message", "trace_state"):
        assert getattr(got, name) == getattr(want, name), name
    assert got.attributes == dict(want.attributes)
    assert {k: type(v) for k, v in got.attributes.items()} == {
        k: type(v) for k, v in want.attributes.items()
    }
    assert [(e.name, e.time_ns, e.attributes) for e in got.events] == [
        (e.name, e.time_ns, dict(e.attributes)) for e in want.events
    ]
    assert [(k.trace_id, k.span_id, k.attributes) for k in got.links] == [
        (k.trace_id, k.span_id, dict(k.attributes)) for k in want.links
    ]


def test_every_field_arrives(receiver: AnyReceiver) -> None:
    sender = sender_for(receiver)
    trace = rich_trace()
    sender.send(trace)
    assert sender.flush(5)
    got = {span.span_id: span for span in receiver.received.wait(3)}
    for want in trace.spans:
        assert_same(got[want.span_id], want)
        assert got[want.span_id].scope == ("vllm_codesign", __version__)
    assert [got[s.span_id].parent_is_remote for s in trace.spans] == [True, False, False]
    assert sender.stats() == {"sent": 3, "queued": 0, "dropped": 0, "failed": 0}
    assert sender.close(5)


def test_each_service_has_its_resource(receiver: AnyReceiver) -> None:
    sender = Sender.from_environment(
        {
            **receiver.environ,
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=a%2Cb, host.name = mine",
        },
        {"service.instance.id": "one", "host.name": "found out"},
    )
    sender.send(make_trace())
    assert sender.flush(5)
    resources = {span.service: span.resource for span in receiver.received.wait(3)}
    assert set(resources) == {"vllm", "vllm-engine"}
    for service, resource in resources.items():
        sdk_version = resource.pop("telemetry.sdk.version")
        assert sdk_version[0].isdigit()
        assert resource == {
            "service.name": service,
            "service.instance.id": "one",
            "deployment.environment.name": "a,b",
            "host.name": "mine",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
        }
    sender.close(5)


def test_an_instance_id_is_made_up_where_there_is_none(receiver: AnyReceiver) -> None:
    for number in range(2):
        sender = sender_for(receiver)
        sender.send(make_trace(number))
        assert sender.close(5)
    ids = {span.resource["service.instance.id"] for span in receiver.received.wait(6)}
    assert len(ids) == 2


def test_headers_arrive(receiver: AnyReceiver) -> None:
    sender = sender_for(receiver, OTEL_EXPORTER_OTLP_HEADERS="Authorization=Basic%20eA==,x-a=1")
    sender.send(make_trace())
    assert sender.flush(5)
    batch = receiver.received.batches[0]
    assert (batch["authorization"], batch["x-a"]) == ("Basic eA==", "1")
    sender.close(5)


def test_the_variable_for_traces_goes_first(receiver: AnyReceiver) -> None:
    path = "/v1/traces" if receiver.protocol == "http/protobuf" else ""
    sender = Sender.from_environment(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.endpoint + path,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": receiver.protocol,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-a=general",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-a=traces",
        },
        {},
    )
    sender.send(make_trace())
    assert sender.flush(5)
    assert receiver.received.batches[0]["x-a"] == "traces"
    sender.close(5)


def test_gzip_shortens_what_is_sent(receiver: AnyReceiver) -> None:
    sizes = {}
    for compression in ("none", "gzip"):
        with CountingRelay(receiver.port) as relay:
            sender = sender_for(
                receiver,
                OTEL_EXPORTER_OTLP_ENDPOINT=relay.endpoint,
                OTEL_EXPORTER_OTLP_COMPRESSION=compression,
            )
            sender.send(make_trace(filler="x" * 100_000))
            assert sender.close(5)
            sizes[compression] = relay.bytes_sent
    assert sizes["none"] > 100_000
    assert sizes["gzip"] < 10_000
    assert {len(span.attributes.get("filler", "")) for span in receiver.received.wait(6)} == {
        0,
        100_000,
    }


def test_deflate_over_http() -> None:
    with HttpReceiver() as receiver:
        sender = sender_for(receiver, OTEL_EXPORTER_OTLP_COMPRESSION="deflate")
        sender.send(make_trace())
        assert sender.close(5)
        assert receiver.received.batches[0]["content-encoding"] == "deflate"
        assert len(receiver.received.spans) == 3


def test_batches_go_out_by_themselves(receiver: AnyReceiver) -> None:
    sender = sender_for(receiver, OTEL_BSP_SCHEDULE_DELAY="50", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="2")
    sender.send(make_trace())
    receiver.received.wait(3, timeout=3)
    assert len(receiver.received.batches) == 2
    sender.close(5)


def test_nothing_configured_sends_nothing() -> None:
    sender = Sender.from_environment({}, {})
    assert not sender.active
    assert not sender.sampled(make_trace().root, True)
    sender.send(make_trace())
    assert sender.stats() == {"sent": 0, "queued": 0, "dropped": 0, "failed": 0}
    assert sender.flush(0)
    assert sender.close(0)


def test_console(capsys: pytest.CaptureFixture[str]) -> None:
    sender = Sender.from_environment({"OTEL_TRACES_EXPORTER": "console"}, {})
    sender.send(make_trace())
    assert sender.close(5)
    assert capsys.readouterr().out.count(f"0x{TRACE:032x}") == 3


@pytest.mark.parametrize(
    ("variables", "without_parent", "sampled_parent", "unsampled_parent"),
    [
        ({}, True, True, False),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, True, True, True),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, False, False, False),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, True, True, False),
        ({"OTEL_TRACES_SAMPLER": "Parentbased_Always_Off"}, False, True, False),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, True, True, True),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
            False,
            False,
            False,
        ),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
            False,
            True,
            False,
        ),
    ],
)
def test_the_sampler_decides(
    variables: dict[str, str], without_parent: bool, sampled_parent: bool, unsampled_parent: bool
) -> None:
    sender = Sender.from_environment({"OTEL_TRACES_EXPORTER": "otlp", **variables}, {})
    root = make_trace().root
    assert sender.sampled(root, None) is without_parent
    assert sender.sampled(root, True) is sampled_parent
    assert sender.sampled(root, False) is unsampled_parent
    sender.close(1)


def test_the_ratio_goes_by_trace_id() -> None:
    sender = Sender.from_environment(
        {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.25",
        },
        {},
    )
    # OpenTelemetry's Python looks at the lower 64 bits of the id: sampled below a quarter.
    for eighth in range(8):
        root = Span("r", "vllm", (77 << 64) | (eighth << 61), 1, 0, START, START)
        assert sender.sampled(root, None) is (eighth < 2)
    sender.close(1)


def test_bad_settings_are_one_line() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
        "OTEL_TRACES_SAMPLER": "sometimes",
    }
    with pytest.raises(CodesignError) as raised:
        Sender.from_environment(environ, {})
    assert str(raised.value) == (
        "OTEL_EXPORTER_OTLP_PROTOCOL='http/json' is not supported; "
        "set one of grpc, http/protobuf (and 1 more)"
    )


def test_a_timeout_in_milliseconds_is_suspected(caplog: pytest.LogCaptureFixture) -> None:
    sender = Sender.from_environment(
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TIMEOUT": "10000"}, {}
    )
    assert "OTEL_EXPORTER_OTLP_TIMEOUT is 10000 seconds" in caplog.text
    sender.close(1)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
@pytest.mark.parametrize("kind", RECEIVERS, ids=lambda kind: kind.protocol)
def test_tls_with_a_certificate_of_ones_own(
    kind: type[AnyReceiver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    # requests prefers these to what a session was told, and then trusts nobody here.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    with kind(tls=(certificate, key)) as receiver:
        variables = {**receiver.environ, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.7"}
        distrusting = Sender.from_environment(variables, {})
        distrusting.send(make_trace())
        assert distrusting.flush(5)
        assert distrusting.stats()["failed"] == 3
        distrusting.close(1)

        variables["OTEL_EXPORTER_OTLP_CERTIFICATE"] = str(certificate)
        trusting = Sender.from_environment({**variables, "OTEL_EXPORTER_OTLP_TIMEOUT": "5"}, {})
        trusting.send(make_trace())
        assert trusting.close(5)
        assert len(receiver.received.wait(3)) == 3


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    sender = Sender.from_environment(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:1",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(path),
            "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2",
        },
        {},
    )
    sender.send(make_trace())
    assert sender.flush(5)
    assert sender.stats()["failed"] == 3
    sender.close(1)
