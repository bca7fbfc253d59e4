"""Whatever a file or a back end holds: an analysis, or one line that says what is wrong with it."""

from __future__ import annotations

import copy
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.backends import known
from tests.backends.answering import Answering
from tests.backends.otlp import document
from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.analysis import perfetto
from vllm_codesign.analysis.overview import overview
from vllm_codesign.analysis.plain import plain
from vllm_codesign.analysis.sources import opened
from vllm_codesign.backends.query import Query
from vllm_codesign.cli import analyze
from vllm_codesign.cli.main import main
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span

REQUESTS = known.requests()[:3]
TRACES = [*REQUESTS, *known.steps(known.requests())[:3]]
DOCUMENT = document([*TRACES, *known.lmcache(REQUESTS[:1])])
ALL = Query(since_ns=traces.EPOCH_NS - 10**9, until_ns=traces.EPOCH_NS + 300 * 10**9, limit=50)
HUGE, DEEP = "9" * 23, "[" * 100_000
Path_ = tuple[str | int, ...]


def _tag(key: str, value: AttributeValue) -> dict[str, Any]:
    kinds = ((bool, "bool"), (int, "int64"), (float, "float64"))
    kind = next((name for of, name in kinds if isinstance(value, of)), "string")
    return {"key": key, "type": kind, "value": json.dumps(value) if kind == "string" else value}


def _legacy(span: Span) -> dict[str, Any]:
    trace_id = f"{span.trace_id:032x}"
    parent = {"refType": "CHILD_OF", "traceID": trace_id, "spanID": f"{span.parent_id:016x}"}
    tags = {**span.attributes, "otel.scope.name": S.SCOPE_NAME, "span.kind": span.kind}
    return {
        "traceID": trace_id,
        "spanID": f"{span.span_id:016x}",
        "operationName": span.name,
        "references": [parent] if span.parent_id else [],
        "startTime": span.start_ns // 1_000,
        "duration": span.duration_ns // 1_000,
        "tags": [
            {**_tag(k, v), "value": v} if isinstance(v, str) else _tag(k, v)
            for k, v in tags.items()
        ],
        "logs": [
            {"timestamp": e.time_ns // 1_000, "fields": [_tag("event", e.name)]}
            for e in span.events
        ],
        "processID": span.service,
    }


def _legacy_document(of: list[RequestTrace]) -> dict[str, Any]:
    services = {span.service for trace in of for span in trace.spans}
    processes = {name: {"serviceName": name, "tags": []} for name in services}
    return {
        "data": [
            {"spans": [_legacy(span) for span in trace.spans], "processes": processes}
            for trace in of
        ]
    }


LEGACY = _legacy_document(TRACES)


def use(source: str, query: Query, folder: Path, drawn: bool = True) -> None:
    """All that is made of what was read."""
    with opened(source, query) as there:
        view = overview(None, source=there)
        json.dumps(plain(view), ensure_ascii=False).encode()
        console = Console(file=io.StringIO(), width=120)
        analyze.render(view, console)
        assert isinstance(console.file, io.StringIO)
        console.file.getvalue().encode()
        if drawn:
            perfetto.export(there.capture, folder / "x.pftrace")


def one_line(make: Callable[[], None]) -> None:
    said = ""
    try:
        make()
    except CodesignError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 1_000


# Explicit ones.


def test_what_is_not_strange_is_read(tmp_path: Path) -> None:
    for name, content in (("otlp", DOCUMENT), ("legacy", LEGACY)):
        file = tmp_path / name
        file.write_text(json.dumps(content))
        # In microseconds a first step may begin before this run's clock does, at 0.
        use(f"otlp-json:{file}", Query(), tmp_path, drawn=name == "otlp")


def _span(found: dict[str, Any]) -> dict[str, Any]:
    spans = (
        span
        for of_resource in found["resourceSpans"]
        for of_scope in of_resource["scopeSpans"]
        for span in of_scope["spans"]
    )
    return next(span for span in spans if span["name"].startswith("POST "))


def _set(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda found: _span(found).update({key: value})


def _attribute(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        attributes = _span(found)["attributes"]
        attributes[:] = [pair for pair in attributes if pair["key"] != key]
        attributes.append({"key": key, "value": value})

    return change


ODD: dict[str, tuple[Callable[[dict[str, Any]], None], str | None]] = {
    "23 digits": (_set("startTimeUnixNano", HUGE), f"'{HUGE}' is no time between 1970 and 2116"),
    "23 digits, a number": (_set("endTimeUnixNano", int(HUGE)), f"{HUGE} is no time between"),
    "before 1970": (_set("startTimeUnixNano", "-5"), "'-5' is no time between 1970 and 2116"),
    "no number": (_set("endTimeUnixNano", float("inf")), "inf is no time"),
    "reversed": (_set("endTimeUnixNano", "5"), "ends before it begins: it is damaged"),
    "an id of another length": (_set("spanId", "f" * 32), "too long for an id of 64 bits"),
    "an id below zero": (_set("spanId", "-" + "f" * 15), "is no id"),
    "a name that is none": (_set("name", 5), "5 is no text"),
    "half a letter": (_set("name", "POST \ud800"), None),
    "no resource": (lambda found: found["resourceSpans"][0].update(resource=None), None),
    "no scope": (
        lambda found: found["resourceSpans"][0]["scopeSpans"][0].update(scope=None),
        "but no whole request",
    ),
    "a host's clock of 23 digits": (
        _attribute(S.MONOTONIC.key, {"intValue": HUGE}),
        "does not fit into 64 bits",
    ),
    "a host's clock of 64 bits": (
        _attribute(S.MONOTONIC.key, {"intValue": str(2**63 - 1)}),
        f"says {S.MONOTONIC.key} = 9223372036854775807, which is no length of time",
    ),
    "a host's clock in words": (_attribute(S.MONOTONIC.key, {"stringValue": "noon"}), None),
    "an endless first token": (_attribute(S.RESPONSE_TTFC.key, {"doubleValue": "Infinity"}), None),
    "no first token": (_attribute(S.RESPONSE_TTFC.key, {"doubleValue": "NaN"}), None),
    "a float too large": (_attribute("x", {"doubleValue": int(HUGE) ** 20}), "is no number"),
    "deep": (
        _attribute("x", json.loads('{"arrayValue":{"values":[' * 300 + "]}}" * 300)),
        None,
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_a_file_with_one_strange_span(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, line = ODD[name]
    found = copy.deepcopy(DOCUMENT)
    change(found)
    file = tmp_path / "traces.json"
    file.write_text(json.dumps(found))
    status = main(["analyze", "--from", f"otlp-json:{file}"])
    said = capsys.readouterr().err
    assert status == (0 if line is None else 1), said
    if line is not None:
        assert line in said
        assert said.startswith("codesign: ")
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (DEEP.encode(), "is no OTLP JSON: it is too deep"),
        (b'{"resourceSpans": []}\n' + DEEP.encode() + b"\n", "line 2 is no OTLP JSON: it is too d"),
        (
            b'{"resourceSpans": [{"resource": {"a": "\xe4"}}]}',
            "is no text: set the file exporter's",
        ),
        ('{"resourceSpans": []}'.encode("utf-16"), "is no text: set the file exporter's"),
        (b'{"data": [{"spans": [{"processID": "p"}]}]}', "is no JSON of Jaeger's: lacks 'p'"),
    ],
)
def test_a_file_that_is_none(
    content: bytes, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "traces.json"
    file.write_bytes(content)
    assert main(["analyze", "--from", f"otlp-json:{file}"]) == 1
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_a_byte_order_mark_is_none_of_the_documents(tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    file.write_bytes(json.dumps(DOCUMENT).encode("utf-8-sig"))
    use(f"otlp-json:{file}", Query(), tmp_path)


def _legacy_change(key: str, value: object) -> dict[str, Any]:
    found = copy.deepcopy(LEGACY)
    found["data"][0]["spans"][0][key] = value
    return found


@pytest.mark.parametrize(
    ("scheme", "answers", "line"),
    [
        ("jaeger", {"/api/v3/services": {"services": 5}}, "no request of 'vllm' in the last hour"),
        ("jaeger", {"/api/v3/services": {"services": [5, None]}}, "no request of 'vllm' in the"),
        ("jaeger", {"/api/v3/services": {}, "/api/v3/traces": {"result": 5}}, "answers neither"),
        ("jaeger", {"/api/services": {"data": 5}}, "is not Jaeger: /api/traces answers"),
        *(
            ("jaeger", {"/api/services": {"data": ["vllm"]}, "/api/traces": answer}, line)
            for answer, line in (
                ({"data": None, "errors": 7}, "answers with an error: 7"),
                ({"data": None, "errors": [None]}, "answers with an error: None"),
                ({"data": None, "errors": [{"code": 500, "msg": ["a\nb"]}]}, "with an error: ['a"),
                ({"data": 7}, "is no JSON of Jaeger's: a part has another shape"),
                (_legacy_change("startTime", HUGE), "is no time between 1970 and 2116"),
                (_legacy_change("startTime", -5), "-5 is no time between 1970 and 2116"),
                (_legacy_change("duration", -5), "-5 is no length of time"),
                (_legacy_change("traceID", "f" * 40), "is too long for an id of 128 bits"),
            )
        ),
        ("tempo", {"/api/search": {"traces": 5}}, "lists no traces: a part has another shape"),
        ("tempo", {"/api/search": {"traces": [{}]}}, "lists no traces: lacks 'traceID'"),
        (
            "tempo",
            {"/api/search": {"traces": [{"traceID": "xyz"}]}},
            "lists no traces: 'xyz' is no",
        ),
        (
            "tempo",
            {
                "/api/search": {"traces": [{"traceID": "1"}]},
                f"/api/v2/traces/{1:032x}": {"trace": {"resourceSpans": [{"scopeSpans": 5}]}},
            },
            "is no OTLP JSON of traces: a part has another shape",
        ),
        (
            "tempo",
            {
                "/api/search": {"traces": []},
                "/api/v2/search/tag/resource.service.name/values": {"tagValues": 5},
            },
            "no request of 'vllm' in the last hour",
        ),
    ],
)
def test_an_answer_of_another_shape(
    scheme: str, answers: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(path: str, _: dict[str, str]) -> tuple[int, bytes]:
        if path in answers:
            return 200, json.dumps(answers[path]).encode()
        return (404, b'{"error":{"httpCode":404}}') if "v3/traces" in path else (200, b"<html>")

    with Answering(answer) as server:
        assert main(["analyze", "--from", f"{scheme}:{server.url}"]) == 1
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("since", ["99999999999d", "0001-01-01", "9" * 400 + "d"])
def test_a_far_since(since: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Answering(lambda _path, _asked: (200, b"{}")) as server:
        assert main(["analyze", "--from", f"jaeger:{server.url}", "--since", since]) == 1
    said = capsys.readouterr().err
    assert "is not between 1970 and 2116: name one between them" in said
    assert said.count("\n") == 1


# Any.

_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 10**23, -(10**23), 2**63 - 1, -(2**63), 2**59, 1e308, -1e300]),
    st.floats(),
    st.sampled_from(["", HUGE, "-5", "\ud800", "a\nb", "f" * 16, "f" * 32, "[1e999]", "x" * 3_000]),
    st.text(max_size=5),
    st.sampled_from([[], {}, [None], [[]], {"a": 1}]),
)
_VALUE = st.one_of(
    st.builds(lambda n: {"intValue": str(n)}, st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda n: {"intValue": str(n)}, st.integers(-5, 5)),
    st.builds(lambda x: {"doubleValue": x}, st.floats()),
    st.builds(lambda x: {"doubleValue": x}, st.sampled_from(["NaN", "Infinity", "-Infinity"])),
    st.builds(lambda t: {"stringValue": t}, st.text(max_size=5)),
    st.sampled_from([{"stringValue": text} for text in ("step", "completed", "decode", "[1e999]")]),
    st.builds(lambda b: {"boolValue": b}, st.booleans()),
    st.just({"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "x"}]}}),
)
_CHANGES = st.lists(st.tuples(st.integers(0, 10**6), _JUNK, _VALUE), min_size=1, max_size=4)
Changes = list[tuple[int, Any, Any]]


def _paths(node: Any, at: Path_ = ()) -> Iterator[Path_]:
    inside = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inside:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from _paths(value, (*at, key))


def _changed(content: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """At any of its places something else; attributes keep the shape of one every other time."""
    found = copy.deepcopy(content)
    for place, junk, value in changes:
        paths = list(_paths(found))
        *above, last = paths[place % len(paths)]
        node: Any = found
        for key in above:
            node = node[key]
        node[last] = value if last == "value" and place % 2 else junk
    return found


@given(_CHANGES)
@settings(max_examples=25, deadline=None)
def test_any_file(changes: Changes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "traces.json"
        for content in (DOCUMENT, LEGACY):
            file.write_text(json.dumps(_changed(content, changes)))
            one_line(lambda: use(f"otlp-json:{file}", Query(), Path(folder)))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_any_bytes(changes: list[tuple[int, int]]) -> None:
    content = bytearray(json.dumps(DOCUMENT).encode())
    for place, value in changes:
        content[place % len(content)] = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "traces.json"
        file.write_bytes(content)
        one_line(lambda: use(f"otlp-json:{file}", Query(), Path(folder)))


_BACKENDS: dict[str, Callable[[str], tuple[int, Any]]] = {
    "jaeger": lambda path: (
        200,
        {"services": ["vllm"]} if path.endswith("services") else {"result": DOCUMENT},
    ),
    "legacy": lambda path: (
        (200, "<html>")
        if "v3" in path
        else (200, {"data": ["vllm"]} if path.endswith("services") else LEGACY)
    ),
    "tempo": lambda path: (200, _tempo(path)),
}


def _tempo(path: str) -> dict[str, Any]:
    if path.endswith("values"):
        return {"tagValues": [{"type": "string", "value": "vllm"}]}
    if path == "/api/search":
        return {"traces": [{"traceID": f"{t.trace_id:x}"} for t in TRACES], "metrics": {}}
    wanted = int(path.rsplit("/", 1)[1], 16)
    return {"trace": document([t for t in TRACES if t.trace_id == wanted])}


@pytest.mark.parametrize("backend", _BACKENDS)
@given(_CHANGES, st.sampled_from([200, 200, 200, 200, 204, 302, 404, 500]), st.integers(0, 4))
@settings(max_examples=10, deadline=None)
def test_any_answer(backend: str, changes: Changes, status: int, which: int) -> None:
    """One of the answers is strange, the others are as they should be."""
    asked = []

    def answer(path: str, _: dict[str, str]) -> tuple[int, bytes]:
        asked.append(path)
        good, content = _BACKENDS[backend](path)
        if len(asked) - 1 != which:
            return good, json.dumps(content).encode()
        strange = _changed(content, changes) if isinstance(content, dict) else changes[0][1]
        return status, json.dumps(strange).encode()

    with tempfile.TemporaryDirectory() as folder, Answering(answer) as server:
        scheme = "jaeger" if backend == "legacy" else backend
        one_line(lambda: use(f"{scheme}:{server.url}", ALL, Path(folder)))
