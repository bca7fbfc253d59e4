"""KV caches in the report, and on one request's waterfall."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.analysis.overview import Overview, overview
from vllm_codesign.analysis.plain import plain
from vllm_codesign.cli import analyze
from vllm_codesign.model.trace import RequestTrace, Span, SpanEvent
from vllm_codesign.report.page import render

LOADED = {
    S.KV_CONNECTOR.key: "LMCacheMPConnector",
    S.KV_TIER.key: "host",
    S.KV_TOKENS.key: 1_280,
    S.KV_BYTES.key: 3 << 20,
    S.KV_DURATION.key: 2_000_000,
}


def of_session(trace: RequestTrace, session: str, victim: str, blocks: int) -> RequestTrace:
    """The same request with a load, and a prefill that took blocks from another session."""
    root = replace(trace.root, attributes={**trace.root.attributes, S.SESSION_ID.key: session})
    prefill = next(span for span in trace.children if span.name == S.PREFILL.name)
    took = SpanEvent(
        S.EVENT_EVICTED,
        prefill.start_ns,
        {S.EVICTED_BLOCKS.key: blocks, S.EVICTED_SESSION.key: victim},
    )
    again = {**prefill.attributes, S.KV_TOKENS_AGAIN.key: 16 * blocks}
    load = replace(
        prefill,
        name=S.KV_LOAD.name,
        span_id=prefill.span_id + 10_000_000,
        start_ns=prefill.start_ns - 2_000_000,
        end_ns=prefill.start_ns,
        attributes=dict(LOADED),
        events=(),
    )
    others: tuple[Span, ...] = tuple(span for span in trace.children if span is not prefill)
    return RequestTrace(root, (*others, load, replace(prefill, events=(took,), attributes=again)))


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Overview:
    """Two sessions that evict each other."""
    found = traces.traces()
    found[0] = of_session(found[0], "agent-a", "agent-b", 7)
    found[1] = of_session(found[1], "agent-b", "agent-a<b>", 5)
    capture = traces.write_capture(tmp_path_factory.mktemp("kv"), found)
    return overview(capture.path)


def cells(page: str, title: str) -> list[list[str]]:
    """The rows of the table whose caption begins so."""
    (table,) = re.findall(
        rf"<caption>{re.escape(title)}[^<]*</caption>(.*?)</table>", page, re.DOTALL
    )
    rows = re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1], re.DOTALL)
    return [
        [html.unescape(c) for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows
    ]


def test_the_page_names_who_evicted_whom(view: Overview) -> None:
    page = render(view)
    assert cells(page, "who evicted whom (12 cached blocks in all)") == [
        ["agent-a", "agent-b", "7", "1", "–"],
        ["agent-b", "agent-a<b>", "5", "1", "–"],
    ]
    assert "agent-a<b>" not in page, "names come from outside"
    (first, *_) = cells(page, "prompt tokens by session (192 computed again")
    assert (first[0], first[1], first[5]) == ("agent-a", "1", "112")
    (load,) = cells(page, "KV transfers")
    assert load == [
        *(S.KV_LOAD.name, "LMCacheMPConnector", "host", "2", "2,560", "6.0"),
        *("2.0", load[7], "0"),
    ]


def test_so_does_the_terminal(view: Overview) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    analyze.render(view, console)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["agent-a", "agent-b", "7", "1", "–"] in lines
    assert ["agent-b", "agent-a<b>", "5", "1", "–"] in lines


def test_so_does_the_json(view: Overview) -> None:
    found = json.loads(json.dumps(plain(view)))["kv"]
    assert [(e["by"], e["of"], e["blocks"]) for e in found["evictions"]] == [
        ("agent-a", "agent-b", 7),
        ("agent-b", "agent-a<b>", 5),
    ]
    assert found["calls"] == {"view": "throughput, per fleet", "of": []}


def test_without_any_there_is_no_section(tmp_path: Path) -> None:
    capture = traces.write_capture(tmp_path, traces.traces())
    assert "KV caches" not in render(overview(capture.path))
