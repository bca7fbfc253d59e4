"""From Jaeger, from Tempo and from a file comes what the local capture has, or one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backends import known
from tests.backends.answering import Answering
from tests.backends.fake import FakeJaeger, FakeTempo
from tests.backends.otlp import document
from tests.backends.recorded import REJECTED, UNICODE, WHOLE, recorded
from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.analysis.overview import overview
from vllm_codesign.analysis.plain import plain
from vllm_codesign.analysis.sources import Source, opened
from vllm_codesign.backends import jaeger, tempo
from vllm_codesign.backends.query import Query
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.reader import read_steps, read_traces
from vllm_codesign.store.writer import SegmentWriter

SINCE, UNTIL = traces.EPOCH_NS - 10**9, traces.EPOCH_NS + 300 * 10**9
ALL = Query(since_ns=SINCE, until_ns=UNTIL)
FAKES = {"jaeger": FakeJaeger, "tempo": FakeTempo}
both = pytest.mark.parametrize("scheme", FAKES)


@pytest.fixture
def requests() -> list[RequestTrace]:
    return known.requests()


@pytest.fixture
def steps(requests: list[RequestTrace]) -> list[RequestTrace]:
    return known.steps(requests)


def everything(capture: Capture) -> tuple[list[RequestTrace], list[Step]]:
    return list(read_traces(capture)), sorted(read_steps(capture), key=lambda s: s.number)


def local(folder: Path, all_traces: Iterable[RequestTrace]) -> Capture:
    capture = Capture(folder / "local")
    writer = SegmentWriter(capture.traces)
    for trace in all_traces:
        writer.add(trace.spans, {})
    writer.close()
    capture.series.mkdir()
    return capture


def table(source: Source) -> dict[str, Any]:
    found = plain(overview(None, source=source))
    return {key: found[key] for key in ("scenarios", "kv", "finding")}


@both
def test_the_same_spans_steps_and_tables_as_the_local_capture(
    scheme: str, requests: list[RequestTrace], steps: list[RequestTrace], tmp_path: Path
) -> None:
    capture = local(tmp_path, [*requests, *steps])
    here = Source("here", capture)
    with (
        FAKES[scheme]([*requests, *steps]) as fake,
        opened(f"{scheme}:{fake.url}", ALL) as there,
    ):
        assert everything(there.capture) == everything(capture)
        assert len(everything(capture)[1]) == known.STEPS
        assert table(there) == table(here)
        folder = there.capture.path
        assert not any("limit" in note for note in there.notes)
    assert not folder.exists()


def test_a_search_that_hands_out_few_is_asked_in_slices(
    requests: list[RequestTrace],
    steps: list[RequestTrace],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(jaeger, "MOST", 7)
    capture = local(tmp_path, [*requests, *steps])
    with (
        FakeJaeger([*requests, *steps]) as fake,
        opened(f"jaeger:{fake.url}", ALL) as there,
    ):
        assert everything(there.capture) == everything(capture)
    assert len(fake.asked) > 20
    assert {p.get("query.num_traces") for path, p in fake.asked if "min" in str(p)} == {"7"}


def test_tempo_says_when_one_second_holds_more_than_it_hands_out(
    requests: list[RequestTrace], monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = [RequestTrace(replace(t.root, start_ns=traces.EPOCH_NS), ()) for t in requests]
    monkeypatch.setattr(tempo, "MOST", 5)
    with FakeTempo(crowd) as fake, opened(f"tempo:{fake.url}", ALL) as there:
        assert 5 <= len(everything(there.capture)[0]) < known.COUNT
        assert (
            f"Tempo at {fake.url} did not hand over every request: a search of it is limited"
            in (there.notes)
        )


@both
def test_the_newest_few(
    scheme: str, requests: list[RequestTrace], steps: list[RequestTrace]
) -> None:
    query = replace(ALL, limit=8)
    with (
        FAKES[scheme]([*requests, *steps]) as fake,
        opened(f"{scheme}:{fake.url}", query) as there,
    ):
        assert "the newest 8 requests alone: --limit was reached" in there.notes
        meant = {t.trace_id for t in everything(there.capture)[0] if there.query.means(t)}
    newest = sorted(requests, key=lambda t: t.root.start_ns)[-8:]
    assert meant == {trace.trace_id for trace in newest}


@both
def test_one_trace_and_the_steps_in_its_time(
    scheme: str, requests: list[RequestTrace], steps: list[RequestTrace]
) -> None:
    query = Query(trace_id=requests[3].trace_id)
    with (
        FAKES[scheme]([*requests, *steps]) as fake,
        opened(f"{scheme}:{fake.url}", query) as there,
    ):
        found, around = everything(there.capture)
        view = overview(None, source=there)
    assert found == [requests[3]]
    assert view.tables.scenarios[0].outcomes == {"completed": 1}
    within = requests[3].root
    assert {step.number for step in around} == {
        number
        for number, step in enumerate(steps, 1)
        if within.start_ns - 5 * 10**9 <= step.root.start_ns <= within.end_ns
    }


@both
def test_lmcaches_spans_stand_with_their_requests(
    scheme: str, requests: list[RequestTrace]
) -> None:
    beside = known.lmcache(requests[:4])
    stranger = known.lmcache([requests[9]])[0]
    lost = replace(stranger, root=replace(stranger.root, attributes={"session_id": "gone"}))
    with (
        FAKES[scheme]([*requests, *beside[1:], lost]) as fake,
        opened(f"{scheme}:{fake.url}", ALL) as there,
    ):
        found = overview(None, source=there).lmcache
    assert found is not None
    kinds = {kind.name: (kind.spans, kind.requests, kind.mean_ms) for kind in found.kinds}
    # The child of the one whose root names a request that is not here does join.
    assert kinds == {"request": (3, 3, 8.0), "mp.lookup_prefetch": (4, 4, 3.0)}
    assert found.unjoined == 1
    assert {(of.after_ms, of.ms) for of in found.of if of.name == "request"} == {(2.0, 8.0)}


@both
def test_nothing_of_ours_is_one_line(scheme: str, requests: list[RequestTrace]) -> None:
    with FAKES[scheme](requests) as fake:
        url = f"{scheme}:{fake.url}"
        name = f"{scheme.title()} at {re.escape(fake.url)}"
        for query, line in (
            (replace(ALL, service="chat"), f"{name} knows no service 'chat'.*: vllm, vllm-engine"),
            (replace(ALL, until_ns=SINCE + 1), f"no request of 'vllm' in this time in {name}: ask"),
            (Query(), f"no request of 'vllm' in the last hour in {name}: .*--since 1d"),
            (Query(trace_id=99), f"no trace 0+63 in {name}: it was sampled away, is too old"),
        ):
            with pytest.raises(CodesignError, match=f"^{line}"), opened(url, query):
                pass


@both
def test_a_trace_that_is_still_arriving(scheme: str, requests: list[RequestTrace]) -> None:
    first, *others = requests[0].children
    arriving = RequestTrace(first, tuple(others))
    with FAKES[scheme]([arriving]) as fake:
        url, count = f"{scheme}:{fake.url}", len(requests[0].children)
        line = f"is still arriving or was cut: .* has {count} of its spans and not the request's"
        query = Query(trace_id=requests[0].trace_id)
        with pytest.raises(CodesignError, match=line), opened(url, query):
            pass
        with pytest.raises(CodesignError, match="no whole request in this time"), opened(url, ALL):
            pass


@both
def test_strangers_are_left_out_and_named(scheme: str, requests: list[RequestTrace]) -> None:
    ours = requests[0]
    caller = replace(
        ours.root, service="shop", span_id=0x5109, name="POST /buy", attributes={}, kind="server"
    )
    below = replace(ours.root, parent_id=0x5109)
    joined = RequestTrace(caller, (below, *ours.children))
    alien = RequestTrace(replace(caller, trace_id=0xA11E), ())
    with FAKES[scheme]([joined, alien]) as fake:
        url = f"{scheme}:{fake.url}"
        with opened(url, ALL) as there:
            assert everything(there.capture)[0] == [RequestTrace(below, ours.children)]
            assert "spans of others in the same traces are left out: shop 1" in there.notes
        with (
            pytest.raises(CodesignError, match="has no span of vllm-codesign, but of: shop; was"),
            opened(url, Query(trace_id=0xA11E)),
        ):
            pass
    line = "but no span of vllm-codesign: were they served"
    with (
        FAKES[scheme]([alien]) as fake,
        pytest.raises(CodesignError, match=line),
        opened(f"{scheme}:{fake.url}", replace(ALL, service="shop")),
    ):
        pass


def test_a_steps_trace_is_no_request(steps: list[RequestTrace]) -> None:
    with (
        FakeJaeger(steps) as fake,
        pytest.raises(CodesignError, match="is of an engine step: name one of a request"),
        opened(f"jaeger:{fake.url}", Query(trace_id=steps[0].trace_id)),
    ):
        pass


def test_what_tempo_cut_is_said(requests: list[RequestTrace]) -> None:
    with FakeTempo(requests) as fake:
        fake.partial = "Trace exceeds maximum size"
        query = Query(trace_id=requests[0].trace_id)
        with opened(f"tempo:{fake.url}", query) as there:
            assert any(
                note.startswith(f"Tempo at {fake.url} cut trace {requests[0].trace_id:032x}: Trace")
                for note in there.notes
            )


@both
def test_where_steps_were_sampled_away_the_exporters_own_figures_count(
    scheme: str, requests: list[RequestTrace], steps: list[RequestTrace]
) -> None:
    one = requests[0]
    wall = one.root.duration_ns
    written = {
        "codesign.part.device.decode_ns": wall - 30,
        "codesign.part.device.gap.schedule_ns": 20,
        "codesign.part.ipc_ns": 10,
        S.HOST_HIDDEN.key: 7,
        S.RESPONSE_TTFC.key: 0.05,
    }
    kept = replace(one, root=replace(one.root, attributes={**one.root.attributes, **written}))
    with (
        FAKES[scheme]([kept, *steps[1:2]]) as fake,
        opened(f"{scheme}:{fake.url}", ALL) as there,
    ):
        view = overview(None, source=there)
    accounts = view.tables.scenarios[0].accounts
    assert accounts is not None
    assert {part: round(stat.mean * 1e6) for part, stat in accounts.parts.items()} == {
        "device.decode": wall - 30,
        "device.gap.schedule": 20,
        "ipc": 10,
    }
    assert (round(accounts.exposed.mean * 1e6), round(accounts.hidden.mean * 1e6)) == (30, 7)
    assert (accounts.ttft, accounts.ttft_parts, accounts.fleet) == (None, {}, None)
    assert any("accounted for as they were when they ended" in note for note in view.notes)


def replay(path: str, _: dict[str, str]) -> tuple[int, bytes]:
    """What the real programs answered."""
    names = {
        "/api/v3/traces": "jaeger_v3_search",
        f"/api/v3/traces/{WHOLE:032x}": "jaeger_v3_trace",
        f"/api/v3/traces/{UNICODE:032x}": "jaeger_v3_trace_unicode",
        f"/api/traces/{WHOLE:032x}": "jaeger_legacy_trace",
        "/api/search": "tempo_search",
        f"/api/v2/traces/{WHOLE:032x}": "tempo_v2_trace",
        f"/api/v2/traces/{UNICODE:032x}": "tempo_v2_trace_unicode",
    }
    if path.endswith("/services"):
        return 200, b'{"services":["vllm"]}'
    if path in names:
        return 200, recorded(names[path]).read_bytes()
    if path.startswith("/api/v3/"):
        return 404, recorded("jaeger_v3_notfound").read_bytes()
    return 200, recorded("tempo_v2_notfound").read_bytes()


@pytest.mark.parametrize(
    ("scheme", "query", "requests_there"),
    [
        ("jaeger", Query(trace_id=WHOLE), {WHOLE}),
        ("jaeger", Query(), {WHOLE, UNICODE, REJECTED}),
        ("tempo", Query(trace_id=UNICODE), {UNICODE}),
        ("tempo", Query(), {WHOLE, UNICODE}),
    ],
)
def test_recorded_answers(scheme: str, query: Query, requests_there: set[int]) -> None:
    recorded("jaeger_v3_trace")
    with Answering(replay) as server, opened(f"{scheme}:{server.url}", query) as there:
        meant = filter(there.query.means, read_traces(there.capture))
        found = {trace.trace_id: trace for trace in meant}
    assert found.keys() == requests_there
    if WHOLE in found:
        assert len(found[WHOLE].spans) == 12
        assert found[WHOLE].root.duration_ns == 812_500_000


@pytest.mark.parametrize("scheme", ["jaeger", "tempo"])
def test_recorded_answers_to_what_is_not_there(scheme: str) -> None:
    recorded("jaeger_v3_notfound")
    with (
        Answering(replay) as server,
        pytest.raises(CodesignError, match=r"no trace 0+7b in"),
        opened(f"{scheme}:{server.url}", Query(trace_id=123)),
    ):
        pass


def test_a_jaeger_without_v3_is_asked_the_old_way() -> None:
    recorded("jaeger_legacy_trace")

    def old(path: str, parameters: dict[str, str]) -> tuple[int, bytes]:
        if path.startswith("/api/v3/"):
            return 200, b"<!doctype html>"
        if path == "/api/services":
            return 200, b'{"data":["vllm"]}'
        if path == "/api/traces":
            return 200, b'{"data":[],"errors":null}'
        return replay(path, parameters)

    with (
        Answering(old) as server,
        opened(f"jaeger:{server.url}", Query(trace_id=WHOLE)) as there,
    ):
        (found,) = read_traces(there.capture)
        assert any("answers in microseconds" in note for note in there.notes)
    assert found.named("prefill")[0].attributes["codesign.step.ids"] == "[77,78,79]"
    assert found.root.attributes["gen_ai.usage.input_tokens"] == 5010
    steps = [parameters for path, parameters in server.asked if path == "/api/traces"]
    assert [p["operation"] for p in steps] == ["engine.step"]


def test_neither_jaeger_nor_tempo() -> None:
    with Answering(lambda _path, _parameters: (200, b'{"status":"ok"}')) as server:
        for scheme, port in (("jaeger", 16686), ("tempo", 3200)):
            line = f"is not {scheme.title()}.*(port {port} by default|base URL)"
            with pytest.raises(CodesignError, match=line), opened(f"{scheme}:{server.url}", ALL):
                pass


def lines(path: Path, documents: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in documents))
    return path


def test_a_file_of_the_collector(
    requests: list[RequestTrace], steps: list[RequestTrace], tmp_path: Path
) -> None:
    capture = local(tmp_path, [*requests, *steps])
    documents = [document([trace]) for trace in (*requests, *steps)]
    file = lines(tmp_path / "traces.json", [{"resourceMetrics": []}, *documents])
    with opened(f"otlp-json:{file}", Query()) as there:
        assert everything(there.capture) == everything(capture)
        assert table(there) == table(Source("here", capture))
    with opened(f"otlp-json:{file}", Query(trace_id=requests[1].trace_id)) as there:
        assert table(there)["scenarios"][0]["outcomes"] == {"completed": 1}


def test_a_file_in_one_piece(requests: list[RequestTrace], tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    file.write_text(json.dumps({"trace": document(requests[:2])}, indent=2))
    with opened(f"otlp-json:{file}", Query()) as there:
        assert len(everything(there.capture)[0]) == 2


def test_a_file_that_is_being_written(requests: list[RequestTrace], tmp_path: Path) -> None:
    file = lines(tmp_path / "traces.json", [document([trace]) for trace in requests])
    file.write_bytes(file.read_bytes()[:-100])
    with opened(f"otlp-json:{file}", Query()) as there:
        assert len(everything(there.capture)[0]) == known.COUNT - 1
        assert there.notes[0] == f"{file}, line {known.COUNT}, the last one, is cut and left out"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is no JSON"),
        (b'{"resourceSpans": [', "is no JSON: .*; one OTLP document a line is expected"),
        (b"[1]", "is no OTLP JSON: an object with `resourceSpans` is expected"),
        (b'{"spans": []}', "is no OTLP JSON: an object"),
        (b'{"resourceSpans": []}\nnot\n{"resourceSpans": []}\n', "line 2 is no JSON"),
        (b'{"resourceSpans": []}', "has no span of vllm-codesign, but of: none at all"),
        (b"\x28\xb5\x2f\xfd\x00\xff", "is no text: set the file exporter's `format: json`"),
    ],
)
def test_files_that_are_something_else(content: bytes, line: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(CodesignError, match=line) as error, opened(f"otlp-json:{file}", Query()):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("zipkin:http://x", "is neither a path nor a back end: write jaeger:http://HOST:16686"),
        ("jaeger:", "lacks an address: write jaeger:"),
        ("otlp-json:/no/such", "cannot read /no/such: No such file"),
        ("/no/such", "/no/such does not exist"),
    ],
)
def test_sources_that_are_none(text: str, line: str) -> None:
    with pytest.raises(CodesignError, match=line), opened(text, Query()):
        pass
