"""OpenTelemetry's variables that every signal has: where to, how, and as whom.

Read as its Python SDK reads them. The SDK's exporters would read them too, but they answer a bad
value with a traceback, a default nobody asked for, or silence. Here each bad value becomes one
line that names the variable, the value and the cure; the values of `..._HEADERS` are never
repeated, they are where people keep their tokens.

Where the SDK for Python and the specification differ, the SDK wins, because vLLM's own
tracing in the same environment follows it: timeouts are seconds, and `grpc` is the default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from opentelemetry.util.re import parse_env_headers

from vllm_codesign.semconv.service import RESOURCE_ATTRIBUTES

SERVICE_NAME = "OTEL_SERVICE_NAME"
SDK_DISABLED = "OTEL_SDK_DISABLED"

Signal = Literal["traces", "metrics"]
PROTOCOLS = ("grpc", "http/protobuf")
DEFAULT_GRPC_ENDPOINT = "http://localhost:4317"
DEFAULT_HTTP_ENDPOINT = "http://localhost:4318"
SUSPICIOUS_TIMEOUT_S = 1000.0
"""A timeout from here on was most likely meant in the specification's milliseconds."""

# What HTTP/2, and so gRPC, lets through: lower-case names, printable ASCII values.
_HEADER_NAME = re.compile(r"[a-z0-9_.-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
# What OpenTelemetry's parser refuses besides, before it decodes percent signs.
_HEADER_FORBIDDEN = frozenset('";\\')
_USERINFO = re.compile(r"(?<=//)[^@/]*@")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one signal goes. Only made where it goes somewhere."""

    exporter: Literal["otlp", "console"] = "otlp"
    protocol: str = "grpc"
    endpoint: str = DEFAULT_GRPC_ENDPOINT
    """As the SDK's exporter wants it: for `http/protobuf` with the path."""
    insecure: bool | None = None
    """None: no variable says, the endpoint's scheme decides."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 10.0
    compression: str = "none"
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    resource: Mapping[str, str] = field(default_factory=dict)

    @property
    def destination(self) -> str:
        """For people, without user or password that the address may hold."""
        if self.exporter == "console":
            return "console"
        address = _USERINFO.sub("", self.endpoint)
        if self.protocol != "grpc":
            return f"{self.protocol} at {address}"
        scheme, separator, rest = address.partition("://")
        plain = scheme != "https" and (
            scheme == "http" and bool(separator) if self.insecure is None else self.insecure
        )
        return f"grpc {'without' if plain else 'with'} TLS at {rest if separator else address}"


class Reader:
    """Reads one variable at a time and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str], signal: Signal = "traces") -> None:
        self.environ = environ
        self.signal = signal
        self.problems: list[str] = []

    def get(self, name: str) -> str:
        """The value, empty where unset: the specification makes no difference between the two."""
        return self.environ.get(name, "").strip()

    def otlp(self, suffix: str) -> tuple[str, str]:
        """Name and value of the variable in force: the signal's own, else the general one."""
        special, general = self._special(suffix), f"OTEL_EXPORTER_OTLP_{suffix}"
        if value := self.get(special):
            return special, value
        return general, self.get(general)

    def _special(self, suffix: str) -> str:
        return f"OTEL_EXPORTER_OTLP_{self.signal.upper()}_{suffix}"

    def bad(self, name: str, value: str, why: str) -> None:
        self.problems.append(f"{name}={_USERINFO.sub('', value)!r} {why}")

    def flag(self, name: str) -> bool:
        value = self.get(name).lower()
        if value not in ("", "true", "false"):
            self.bad(name, value, "is neither true nor false; set one of them or unset it")
        return value == "true"

    def sends(self, name: str, exporters: tuple[str, ...]) -> str:
        """Which exporter the variable `name` asks for; `none` also where nobody configured any."""
        if self.flag(SDK_DISABLED):
            return "none"
        return self.choice(name, exporters, "otlp" if self.otlp("ENDPOINT")[1] else "none")

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        return self._choice(name, self.get(name), allowed, default)

    def otlp_choice(self, suffix: str, allowed: tuple[str, ...], default: str) -> str:
        """`choice` of a variable that each signal may have of its own."""
        return self._choice(*self.otlp(suffix), allowed, default)

    def _choice(self, name: str, value: str, allowed: tuple[str, ...], default: str) -> str:
        value = value.lower()
        if not value:
            return default
        if value not in allowed:
            self.bad(name, value, f"is not supported; set one of {', '.join(allowed)}")
            return default
        return value

    def positive_int(self, name: str, default: int) -> int:
        value = self.get(name)
        if not value:
            return default
        if not value.isascii() or not value.isdigit() or int(value) == 0:
            self.bad(name, value, f"is not a whole number above 0; the default is {default}")
            return default
        return int(value)

    def destination(self, exporter: Literal["otlp", "console"]) -> dict[str, Any]:
        """The fields of a `Destination`."""
        protocol = "grpc"
        endpoint = DEFAULT_GRPC_ENDPOINT
        if exporter == "otlp":
            protocol = self.otlp_choice("PROTOCOL", PROTOCOLS, "grpc")
            endpoint = self.endpoint(protocol)
        encodings = ("none", "gzip") if protocol == "grpc" else ("none", "gzip", "deflate")
        client_certificate, client_key = self.file("CLIENT_CERTIFICATE"), self.file("CLIENT_KEY")
        if (client_certificate is None) != (client_key is None):
            name, value = self.otlp("CLIENT_KEY" if client_key else "CLIENT_CERTIFICATE")
            other = "CLIENT_CERTIFICATE" if client_key else "CLIENT_KEY"
            self.bad(name, value, f"needs OTEL_EXPORTER_OTLP_{other} beside it; set both")
        return {
            "exporter": exporter,
            "protocol": protocol,
            "endpoint": endpoint,
            "insecure": self.insecure(),
            "headers": self.headers(),
            "timeout_s": self.timeout_s(),
            "compression": self.otlp_choice("COMPRESSION", encodings, "none"),
            "certificate": self.file("CERTIFICATE"),
            "client_certificate": client_certificate,
            "client_key": client_key,
            "resource": self.resource_attributes(),
        }

    def endpoint(self, protocol: str) -> str:
        name, value = self.otlp("ENDPOINT")
        if protocol == "grpc":
            if value:
                self._check_grpc_endpoint(name, value)
            return value or DEFAULT_GRPC_ENDPOINT
        if value:
            self._check_http_endpoint(name, value)
        if value and name == self._special("ENDPOINT"):
            return value  # the specification: this one is used as it is
        return f"{(value or DEFAULT_HTTP_ENDPOINT).removesuffix('/')}/v1/{self.signal}"

    def _check_http_endpoint(self, name: str, value: str) -> None:
        if not value.lower().startswith(("http://", "https://")) or not _has_host(value):
            self.bad(name, value, "is not a URL; set it to http://HOST:4318 or https://HOST:4318")

    def _check_grpc_endpoint(self, name: str, value: str) -> None:
        # gRPC also knows unix:PATH, which has no host and which OpenTelemetry hands through.
        if value.startswith("unix:"):
            return
        if not _has_host(value if "://" in value else f"//{value}"):
            self.bad(name, value, "names no host; set it to http://HOST:4317 or https://HOST:4317")

    def insecure(self) -> bool | None:
        name, value = self.otlp("INSECURE")
        return self.flag(name) if value else None

    def timeout_s(self) -> float:
        name, value = self.otlp("TIMEOUT")
        if not value:
            return 10.0
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds < float("inf"):
            self.bad(name, value, "is not a number of seconds above 0; the default is 10")
            return 10.0
        return seconds

    def file(self, suffix: str) -> str | None:
        name, value = self.otlp(suffix)
        if not value:
            return None
        if not os.path.isfile(value) or not os.access(value, os.R_OK):
            self.bad(name, value, "is no readable file; name a PEM file or unset it")
        return value

    def headers(self) -> Mapping[str, str]:
        name, value = self.otlp("HEADERS")
        for number, item in enumerate(value.split(","), start=1):
            if item.strip() and not _is_header(item):
                self.problems.append(
                    f"{name}: item {number} (not shown, it may be secret) is not NAME=VALUE in "
                    "printable ASCII; percent-encode the value, as in x-key=a%2Cb"
                )
                return {}
        return dict(parse_env_headers(value, liberal=True))

    def resource_attributes(self) -> dict[str, str]:
        attributes: dict[str, str] = {}
        for item in filter(str.strip, self.get(RESOURCE_ATTRIBUTES).split(",")):
            key, separator, value = (part.strip() for part in item.partition("="))
            if not key or not separator:
                self.bad(
                    RESOURCE_ATTRIBUTES,
                    item.strip(),
                    "is not KEY=VALUE; percent-encode commas within a value as %2C",
                )
                continue
            attributes[unquote(key)] = unquote(value)
        return attributes


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:  # a port that is not a number, or an unclosed bracket
        return False


def _is_header(item: str) -> bool:
    name, separator, value = item.partition("=")
    if not separator or not _HEADER_NAME.fullmatch(unquote(name).strip().lower()):
        return False
    raw = value.strip()
    if _HEADER_FORBIDDEN.intersection(raw) or not _HEADER_VALUE.fullmatch(raw):
        return False
    return bool(_HEADER_VALUE.fullmatch(unquote(raw)))
