"""Requests are found in a capture that grows, and sampled where there are too many."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.index import Entry, Index, Order
from vllm_codesign.store.writer import SegmentWriter


def named(trace: RequestTrace, session: str) -> RequestTrace:
    attributes = {**trace.root.attributes, S.SESSION_ID.key: session}
    return RequestTrace(replace(trace.root, attributes=attributes), trace.children)


def append(capture: Capture, *found: RequestTrace) -> Path:
    """A further segment, as the exporter closes one."""
    before = set(capture.traces.iterdir())
    writer = SegmentWriter(capture.traces)
    for trace in found:
        writer.add(trace.spans, traces.RESOURCE)
    writer.close()
    (path,) = set(capture.traces.iterdir()) - before
    return path


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    made = traces.traces()
    made[3] = named(made[3], "Agent-7")
    made[5] = named(traces.ended(made[5].trace_id, made[5].root.start_ns, "failed"), "agent-7")
    return traces.write_capture(tmp_path, made)


def index_of(capture: Capture) -> Index:
    scenarios = {t.trace_id: ("single", "conc4")[k // 20] for k, t in enumerate(traces.traces())}
    found = Index(capture, scenarios)
    assert found.refresh()
    return found


def ids(entries: tuple[Entry, ...]) -> list[int]:
    return [entry.trace_id for entry in entries]


def test_an_entry_says_what_its_root_says(capture: Capture) -> None:
    index = index_of(capture)
    (found,) = index.search(f"{traces.trace_id(0, 3):032x}").entries
    root = traces.traces()[3].root
    assert found == Entry(
        root.trace_id,
        root.span_id,
        root.start_ns,
        root.duration_ns,
        "POST /v1/chat/completions",
        "completed",
        "Agent-7",
        "single",
    )
    assert (index.total, index.outcomes) == (40, {"completed": 39, "failed": 1})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("agent-7", [3, 5]),
        (f"REQ-{traces.trace_id(0, 8):x}-0", [8]),
        (f"{traces.traces()[11].root.span_id:016x}", [11]),
        ("conc4", list(range(20, 40))),
        ("%", []),
        ("' OR true --", []),
    ],
)
def test_search(capture: Capture, text: str, wanted: list[int]) -> None:
    found = index_of(capture).search(text, order=Order.EARLIEST)
    assert found.total == len(wanted)
    made = traces.traces()
    # The four of a batch begin together.
    assert sorted(ids(found.entries)) == sorted(made[k].trace_id for k in wanted)


def test_orders_pages_and_outcomes(capture: Capture) -> None:
    index = index_of(capture)
    slowest = index.search(limit=3)
    assert slowest.total == 40
    assert [e.duration_ns for e in slowest.entries] == sorted(
        (t.root.duration_ns for t in traces.traces()), reverse=True
    )[:3]
    (latest,) = index.search(order=Order.LATEST, limit=1).entries
    assert latest.start_ns == max(t.root.start_ns for t in traces.traces())
    first, second = (index.search(order=Order.EARLIEST, limit=5, offset=o) for o in (0, 5))
    assert ids(first.entries + second.entries) == [t.trace_id for t in traces.traces()[:10]]
    assert ids(index.search(outcome="failed").entries) == [traces.trace_id(0, 5)]


def test_new_segments_appear_and_old_ones_go(capture: Capture) -> None:
    index = index_of(capture)
    assert not index.refresh()
    late = traces.completed(traces.trace_id(2, 0), traces.EPOCH_NS, wait_ms=0)
    path = append(capture, late)
    assert index.refresh()
    assert index.total == 41
    assert index.trace(late.trace_id, late.root.span_id) == late
    assert index.trace(late.trace_id, 1) is None
    path.unlink()
    assert index.refresh()
    assert (index.total, index.search(f"{late.trace_id:032x}").total) == (40, 0)
    assert index.search(f"req-{late.trace_id:x}").total == 0


def test_a_damaged_segment_is_named_once_and_the_rest_is_found(capture: Capture) -> None:
    index = index_of(capture)
    late = traces.completed(traces.trace_id(2, 0), traces.EPOCH_NS, wait_ms=0)
    whole = append(capture, late)
    footer = capture.traces / "000098-x.parquet"
    footer.write_bytes(b"PAR1 no")
    torn = capture.traces / "000099-x.parquet"
    content = bytearray(whole.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    torn.write_bytes(content)
    assert index.refresh()
    assert index.total == 41
    assert [line.split(" left out")[0] for line in index.reading.unreadable] == [
        str(footer),
        str(torn),
    ]
    assert not index.refresh()


def test_a_request_written_twice_is_one(capture: Capture) -> None:
    index = index_of(capture)
    append(capture, traces.traces()[0])
    index.refresh()
    assert index.total == 40


def test_a_sample_has_the_slowest_the_failed_and_an_even_rest(tmp_path: Path) -> None:
    made = [
        traces.completed(traces.trace_id(0, k), traces.EPOCH_NS + k * traces.MS, wait_ms=k % 7)
        for k in range(100)
    ]
    for k in (40, 41, 42):
        made[k] = traces.ended(made[k].trace_id, made[k].root.start_ns, "aborted")
    index = Index(traces.write_capture(tmp_path, made))
    index.refresh()
    found = index.sample(22, slowest=5, ended_otherwise=2)
    assert found.total == 100
    assert len(found.entries) == 22
    assert {e.duration_ns for e in found.entries[:5]} == {made[6].root.duration_ns}
    assert [e.outcome for e in found.entries[5:7]] == ["aborted", "aborted"]
    places = sorted((e.start_ns - traces.EPOCH_NS) // traces.MS for e in found.entries[7:])
    assert len(places) == 15
    gaps = [b - a for a, b in pairwise(places)]
    assert max(gaps) <= 9, "93 others, 15 of them: six apart, and a few between are taken already"
    assert len(index.sample(100, 5, 2).entries) == 100


def test_a_sample_of_one_scenario(capture: Capture) -> None:
    found = index_of(capture).sample(1_000, 3, 3, "conc4")
    assert (found.total, {e.scenario for e in found.entries}) == (20, {"conc4"})
    slowest = [e.duration_ns for e in found.entries[:3]]
    assert slowest == sorted((e.duration_ns for e in found.entries), reverse=True)[:3]
