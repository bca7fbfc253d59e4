"""Writes docs/settings.md: every variable that is read, and what a bad value is answered with.

The lines for bad values are made by the very readers, and OpenTelemetry's variables are those
that the exporter's reader is seen to ask for: `make docs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from docs.markdown_text import code, table
from vllm_codesign import settings
from vllm_codesign.exporter import otlp_settings
from vllm_codesign.exporter.metrics import push_settings
from vllm_codesign.semconv import DEFAULT_SERVICE_NAME

PAGE = Path(__file__).with_name("settings.md")

_INTRODUCTION = """\
<!-- Written by docs/generate_settings.py from vllm_codesign/settings.py and
vllm_codesign/exporter/otlp_settings.py; `make docs`. -->
# Settings

All of them are environment variables of the server's process; there is no file. An empty variable
counts as unset, but for `CODESIGN_STORE`. A bad value is an error of `codesign doctor`, and inside
vLLM a warning and the default: the server always comes up.
"""

_OURS = {
    settings.ENV_LEVEL: "`off` patches nothing; `request`: one trace for each request; `step`: the"
    " engine's steps as well, device time and the accounting. `codesign level` changes it while"
    " the server runs, unless it was started with `off`.",
    settings.ENV_STORE: "Folder of the local captures (`XDG_STATE_HOME` is heeded); empty for none."
    " 2 GiB and 7 days at most, a segment closes after 10 s.",
    settings.ENV_METRICS_PORT: "Port of the Prometheus endpoint, on loopback unless it is"
    " `HOST:PORT`; 0 for none.",
    settings.ENV_RING_BYTES: "Shared memory for each vLLM process; EngineCore takes up to four"
    " times that. All rings of a server stay under 16 MiB.",
    settings.ENV_KEEP_RECORDS: "1 keeps the raw records in the capture, for `codesign dump`.",
    settings.ENV_GIL: "1 records contention for the GIL in each process"
    " (`pip install gilknocker`); a busy Python loop pays up to 4 %.",
}
_NOT_FOR_PEOPLE = {
    settings.ENV_SESSION: "Set by the process that starts a session, for its children.",
    settings.ENV_SHM: "Folder instead of `/dev/shm`; for tests.",
}
_BAD = {
    settings.ENV_LEVEL: "all",
    settings.ENV_METRICS_PORT: "http",
    settings.ENV_RING_BYTES: "1k",
    settings.ENV_KEEP_RECORDS: "maybe",
    settings.ENV_GIL: "2",
}
"""One for each variable that has bad values; any text is a folder."""

_OTLP = "OTEL_EXPORTER_OTLP_"
_SPECIAL = (f"{_OTLP}TRACES_", f"{_OTLP}METRICS_")
_READERS = (otlp_settings, push_settings)
_SENDING = {f"{_OTLP}ENDPOINT": "http://127.0.0.1:4317", "OTEL_TRACES_SAMPLER": "traceidratio"}
"""What makes the readers ask for all the rest."""
_OF_ONE = {f"{_OTLP}TEMPORALITY_PREFERENCE": f"{_OTLP}METRICS_TEMPORALITY_PREFERENCE"}
"""OpenTelemetry has it for one signal alone."""
_USUAL = otlp_settings.OtlpSettings()
_OPENTELEMETRY: dict[str, tuple[str, str, str]] = {
    f"{_OTLP}ENDPOINT": (
        "none: nothing is sent",
        "Where to. With `http/protobuf` the path `v1/traces` or `v1/metrics` is added here, and"
        " not to the one for a signal.",
        "collector:4317 x",
    ),
    f"{_OTLP}PROTOCOL": (code(_USUAL.protocol), "`grpc` or `http/protobuf`.", "http/json"),
    f"{_OTLP}HEADERS": (
        "none",
        "`NAME=VALUE,NAME=VALUE`, percent-encoded. Never repeated in any message or file.",
        "no-value",
    ),
    f"{_OTLP}TIMEOUT": (
        f"{_USUAL.timeout_s:g}",
        "Seconds, as OpenTelemetry's Python takes it.",
        "soon",
    ),
    f"{_OTLP}COMPRESSION": (
        code(_USUAL.compression),
        "`gzip`, with `http/protobuf` also `deflate`.",
        "zstd",
    ),
    f"{_OTLP}INSECURE": ("the endpoint's scheme decides", "`true`: no TLS (gRPC).", "1"),
    f"{_OTLP}CERTIFICATE": ("the system's", "PEM file to check the receiver with.", "/none.pem"),
    f"{_OTLP}CLIENT_CERTIFICATE": ("none", "PEM file, with its key beside it.", "/none.pem"),
    f"{_OTLP}CLIENT_KEY": ("none", "PEM file, with its certificate beside it.", "/none.pem"),
    "OTEL_SERVICE_NAME": (
        f"`{DEFAULT_SERVICE_NAME}`",
        "`service.name` of the API server's spans; `-engine` and `-worker` are added for the other"
        " processes.",
        "",
    ),
    "OTEL_RESOURCE_ATTRIBUTES": (
        "none",
        "`KEY=VALUE,KEY=VALUE`, on everything that is sent.",
        "prod",
    ),
    "OTEL_SDK_DISABLED": (
        "`false`",
        "`true`: nothing is sent. The local capture is still written, and Prometheus served.",
        "yes",
    ),
    "OTEL_TRACES_EXPORTER": (
        "`otlp` where an endpoint is set, else `none`",
        "`otlp`, `none`, or `console`: the exporter's stdout, which a server that starts it does"
        " not show.",
        "zipkin",
    ),
    "OTEL_METRICS_EXPORTER": (
        "`otlp` where an endpoint is set, else `none`",
        "`otlp`, `none`, `prometheus` (which is `none` here) or `console`, as above. `none` for a"
        " receiver that takes traces alone, as Jaeger.",
        "statsd",
    ),
    "OTEL_METRIC_EXPORT_INTERVAL": ("60000", "Milliseconds between two pushes.", "1m"),
    "OTEL_METRIC_EXPORT_TIMEOUT": ("30000", "Milliseconds for one.", "0"),
    f"{_OTLP}METRICS_TEMPORALITY_PREFERENCE": (
        "`cumulative`",
        "`cumulative`, `delta` or `lowmemory`.",
        "rate",
    ),
    "OTEL_METRICS_EXEMPLAR_FILTER": (
        "`trace_based`",
        "Which requests become exemplars: `trace_based`, `always_on` or `always_off`.",
        "some",
    ),
    "OTEL_TRACES_SAMPLER": (
        code(_USUAL.sampler),
        "Which traces are sent; the local capture has all, and a step is sent when a sampled"
        " request is in it. One of " + ", ".join(map(code, otlp_settings.SAMPLERS)) + ".",
        "jaeger_remote",
    ),
    "OTEL_TRACES_SAMPLER_ARG": ("1", "The ratio, 0 to 1, for the samplers that take one.", "10%"),
    "OTEL_BSP_MAX_QUEUE_SIZE": (f"{_USUAL.queue_size}", "Spans that may wait to be sent.", "0"),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": (f"{_USUAL.batch_size}", "Spans in one message.", "4096"),
    "OTEL_BSP_SCHEDULE_DELAY": (f"{_USUAL.delay_ms}", "Milliseconds between two messages.", "5s"),
    "OTEL_BSP_EXPORT_TIMEOUT": ("30000", "Checked, and handed to nobody.", "-1"),
}
"""Default, meaning and a bad value, empty where there is none."""


def page() -> str:
    """The whole text of docs/settings.md."""
    return "\n".join(
        [
            _INTRODUCTION,
            "## Ours\n",
            *table(("variable", "default", ""), _ours()),
            "\nNot for people:\n",
            *table(("variable", ""), ((code(k), v) for k, v in _NOT_FOR_PEOPLE.items())),
            "\n`VLLM_PLUGINS` is vLLM's own: it limits *all* of vLLM's plugins to those it names."
            " Where it is not set, vLLM loads every installed plugin, this one too.\n",
            "### Bad values\n",
            *table(("set to", "what is said"), _answers()),
            "",
            "## OpenTelemetry's\n",
            f"They mean what they mean everywhere. Where `{_OTLP}X` is listed,"
            f" `{_OTLP}TRACES_X` and `{_OTLP}METRICS_X` go before it, each for its own. Where"
            " OpenTelemetry's Python and its specification differ, Python is followed, as vLLM's"
            " own tracing does. One bad value is enough and nothing is sent: spans should not go"
            " where nobody wants them.\n",
            *table(("variable", "default", ""), _opentelemetry()),
            "",
            "### Bad values of OpenTelemetry's\n",
            *table(("set to", "what is said"), _opentelemetry_answers()),
            "",
        ]
    )


def _ours() -> Iterator[tuple[str, str, str]]:
    usual = settings.Settings()
    defaults = {
        settings.ENV_LEVEL: usual.level,
        settings.ENV_STORE: f"~/{settings.default_store({}).relative_to(Path.home())}",
        settings.ENV_METRICS_PORT: usual.metrics_port,
        settings.ENV_RING_BYTES: usual.ring_bytes,
        settings.ENV_KEEP_RECORDS: int(usual.keep_records),
        settings.ENV_GIL: int(usual.gil),
    }
    for name in variables():
        if name not in _NOT_FOR_PEOPLE:
            yield code(name), code(str(defaults[name])), _OURS[name]


def variables() -> list[str]:
    """Every variable that `settings` names."""
    return [value for name, value in vars(settings).items() if name.startswith("ENV_")]


def _answers() -> Iterator[tuple[str, str]]:
    for name in variables():
        if name in _BAD:
            _, problems = settings.load({name: _BAD[name], settings.ENV_STORE: ""})
            (problem,) = problems
            yield code(f"{name}={_BAD[name]}"), code(problem)


class _Watched(Mapping[str, str]):
    """An environment that remembers which variables were asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.asked: dict[str, None] = {}

    def __getitem__(self, name: str) -> str:
        self.asked[name] = None
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def asked() -> list[str]:
    """OpenTelemetry's variables that the exporter's readers ask for, the general names alone."""
    found: dict[str, None] = {}
    for protocol in ("grpc", "http/protobuf"):
        environ = _Watched(_SENDING | {f"{_OTLP}PROTOCOL": protocol})
        otlp_settings.service_name(environ)
        for reader in _READERS:
            reader.read(environ)
        found |= environ.asked
    return [_OF_ONE.get(name, name) for name in found if not name.startswith(_SPECIAL)]


def _opentelemetry() -> Iterator[tuple[str, str, str]]:
    for name in sorted(asked(), key=list(_OPENTELEMETRY).index):
        default, text, _ = _OPENTELEMETRY[name]
        yield code(name), default, text


def _opentelemetry_answers() -> Iterator[tuple[str, str]]:
    for name, (_, _, bad) in _OPENTELEMETRY.items():
        if bad:
            environ = _SENDING | {name: bad}
            said = [line for reader in _READERS for line in reader.check(environ)]
            yield code(f"{name}={bad}"), code(said[0])
