"""Every variable, every bad value of it, and what the user is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_codesign.exporter.otlp_settings import (
    DEFAULT_GRPC_ENDPOINT,
    OtlpSettings,
    check,
    read,
    service_name,
)

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}
HTTP = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
}


def settings_of(environ: dict[str, str]) -> OtlpSettings:
    settings, problems = read(environ)
    assert problems == []
    assert settings is not None
    return settings


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_TRACES_EXPORTER": "none", **ENDPOINT},
        {"OTEL_SDK_DISABLED": "TRUE", **ENDPOINT, "OTEL_TRACES_EXPORTER": "rubbish"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4317"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
    ],
)
def test_nothing_is_sent(environ: dict[str, str]) -> None:
    assert read(environ) == (None, [])


def test_defaults_are_the_sdks() -> None:
    assert settings_of({"OTEL_TRACES_EXPORTER": "otlp"}) == OtlpSettings()
    assert OtlpSettings().endpoint == DEFAULT_GRPC_ENDPOINT


@pytest.mark.parametrize(
    ("environ", "endpoint", "destination"),
    [
        (ENDPOINT, "http://collector:4317", "grpc without TLS at collector:4317"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://u:p@collector"},
            "https://u:p@collector",
            "grpc with TLS at collector",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
            "collector:4317",
            "grpc with TLS at collector:4317",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "grpc://collector:4317",
                "OTEL_EXPORTER_OTLP_TRACES_INSECURE": "true",
            },
            "grpc://collector:4317",
            "grpc without TLS at collector:4317",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "unix:/run/otel.sock"},
            "unix:/run/otel.sock",
            "grpc with TLS at unix:/run/otel.sock",
        ),
        (
            HTTP,
            "http://collector:4318/v1/traces",
            "http/protobuf at http://collector:4318/v1/traces",
        ),
        (
            {**HTTP, "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector/base/"},
            "https://collector/base/v1/traces",
            "http/protobuf at https://collector/base/v1/traces",
        ),
        (
            {**HTTP, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://u:p@other/as/it/is"},
            "http://u:p@other/as/it/is",
            "http/protobuf at http://other/as/it/is",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "http://localhost:4318/v1/traces",
            "http/protobuf at http://localhost:4318/v1/traces",
        ),
    ],
)
def test_endpoints(environ: dict[str, str], endpoint: str, destination: str) -> None:
    settings = settings_of(environ)
    assert settings.endpoint == endpoint
    assert settings.destination == destination


def test_all_the_rest() -> None:
    settings = settings_of(
        {
            **HTTP,
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20a%2Cb, x-two = 2 ,",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2.5",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP",
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.5",
            "OTEL_RESOURCE_ATTRIBUTES": "a=1,b=x%2Cy=z,",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_BSP_MAX_QUEUE_SIZE": "64",
        }
    )
    assert settings.headers == {"authorization": "Bearer a,b", "x-two": "2"}
    assert "Bearer" not in repr(settings)
    assert settings.timeout_s == 2.5
    assert settings.compression == "gzip"
    assert (settings.sampler, settings.sampler_ratio) == ("traceidratio", 0.5)
    assert settings.resource == {"a": "1", "b": "x,y=z"}
    assert (settings.delay_ms, settings.queue_size, settings.batch_size) == (100, 64, 64)


def test_certificates(tmp_path: Path) -> None:
    for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        (tmp_path / name).write_text("pem")
    environ = {f"OTEL_EXPORTER_OTLP_{p.name}": str(p) for p in tmp_path.iterdir()}
    settings = settings_of({**ENDPOINT, **environ})
    assert settings.certificate == str(tmp_path / "CERTIFICATE")
    assert settings.client_certificate == str(tmp_path / "CLIENT_CERTIFICATE")
    assert settings.client_key == str(tmp_path / "CLIENT_KEY")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "OTEL_TRACES_EXPORTER='zipkin' is not supported; set one of otlp, console, none",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='http/json' is not supported; "
            "set one of grpc, http/protobuf",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://:4317"},
            "OTEL_EXPORTER_OTLP_ENDPOINT='http://:4317' names no host; "
            "set it to http://HOST:4317 or https://HOST:4317",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://u:secret@host:port"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT='http://host:port' names no host; "
            "set it to http://HOST:4317 or https://HOST:4317",
        ),
        (
            {**HTTP, "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
            "OTEL_EXPORTER_OTLP_ENDPOINT='collector:4318' is not a URL; "
            "set it to http://HOST:4318 or https://HOST:4318",
        ),
        (
            {"OTEL_EXPORTER_OTLP_INSECURE": "1"},
            "OTEL_EXPORTER_OTLP_INSECURE='1' is neither true nor false; "
            "set one of them or unset it",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"},
            "OTEL_EXPORTER_OTLP_TIMEOUT='10s' is not a number of seconds above 0; "
            "the default is 10",
        ),
        (
            {"OTEL_EXPORTER_OTLP_COMPRESSION": "deflate"},
            "OTEL_EXPORTER_OTLP_COMPRESSION='deflate' is not supported; set one of none, gzip",
        ),
        (
            {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such.pem"},
            "OTEL_EXPORTER_OTLP_CERTIFICATE='/no/such.pem' is no readable file; "
            "name a PEM file or unset it",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
            "OTEL_TRACES_SAMPLER='jaeger_remote' is not supported; set one of always_on, "
            "always_off, traceidratio, parentbased_always_on, parentbased_always_off, "
            "parentbased_traceidratio",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"},
            "OTEL_TRACES_SAMPLER_ARG='10%' is not a number from 0 to 1; the default is 1",
        ),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "a=1,team"},
            "OTEL_RESOURCE_ATTRIBUTES='team' is not KEY=VALUE; "
            "percent-encode commas within a value as %2C",
        ),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "0"},
            "OTEL_BSP_MAX_QUEUE_SIZE='0' is not a whole number above 0; the default is 2048",
        ),
        (
            {"OTEL_BSP_EXPORT_TIMEOUT": "soon"},
            "OTEL_BSP_EXPORT_TIMEOUT='soon' is not a whole number above 0; the default is 30000",
        ),
        (
            {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096"},
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE='4096' is above OTEL_BSP_MAX_QUEUE_SIZE=2048; lower it",
        ),
    ],
)
def test_bad_values(variables: dict[str, str], line: str) -> None:
    assert check({**ENDPOINT, **variables}) == [line]


def test_a_client_key_needs_its_certificate(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("pem")
    (line,) = check({**ENDPOINT, "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(key)})
    assert line.endswith("needs OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE beside it; set both")


@pytest.mark.parametrize(
    "value", ["secret", "x-a=1,secret", "=secret", "x a=secret", "x-a=secret;b", "x-a=secret%0A"]
)
def test_a_bad_header_is_reported_without_its_text(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    (line,) = check({**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": value})
    assert line.startswith("OTEL_EXPORTER_OTLP_HEADERS: item ")
    assert "secret%" not in line
    assert "secret" not in line.replace("may be secret", "")
    assert caplog.text == ""


def test_every_problem_is_listed() -> None:
    environ = {**ENDPOINT, "OTEL_EXPORTER_OTLP_TIMEOUT": "x", "OTEL_TRACES_SAMPLER": "y"}
    assert len(check(environ)) == 2


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "vllm"),
        ({"OTEL_SERVICE_NAME": " chat "}, "chat"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a%20b"}, "a b"),
        ({"OTEL_SERVICE_NAME": "one", "OTEL_RESOURCE_ATTRIBUTES": "service.name=two"}, "one"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "rubbish"}, "vllm"),
    ],
)
def test_service_name(environ: dict[str, str], name: str) -> None:
    assert service_name(environ) == name
