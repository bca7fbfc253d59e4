"""One file, offline, and nothing in it that a trace could have smuggled in."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import traces
from vllm_codesign.analysis.overview import overview
from vllm_codesign.report import bars, embedded
from vllm_codesign.report.page import render

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    run = traces.run_info(drops={"api_server": 3})
    run.hooks[0].detail = EVIL
    found = traces.traces()
    root = found[39].root
    evil = {**root.attributes, "session.id": EVIL, "codesign.outcome": EVIL}
    found[39] = replace(found[39], root=replace(root, name=EVIL, attributes=evil))
    traces.write_capture(folder / "capture", found, run)
    (folder / "results.json").write_text(traces.bench_run().model_dump_json())
    return folder


@pytest.fixture(scope="module")
def page(demo: Path) -> str:
    return render(overview(demo))


def data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_asks_nobody_for_anything(page: str) -> None:
    # The one address is the name of SVG's elements.
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](?!data:)", page)
    assert "default-src 'none'" in page


def test_what_comes_from_traces_is_escaped(page: str) -> None:
    assert "<script>alert" not in page
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert EVIL in data(page)["names"], "the script has it as it was, and sets it as text"


def test_says_that_it_is_lossy_before_anything_else(page: str) -> None:
    body = page.split("<header>", 1)[1]
    assert body.split(">", 1)[0].strip() == '<p class="lossy" role="alert"'
    assert "3 records were lost (api_server 3)." in body
    assert "No verdict (latency, per request): no completed request is accounted for" in body


def test_headline_tables_and_run(page: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.unescape(page)))
    assert "conc4: of the 29.21 ms that the client calls HTTP overhead" in text
    assert "tokenize wait 14.21 10.00 30.00 8.4 % 19" in text
    assert "HTTP OH 30.00 25.00 45.00 20" in text
    assert "vllm 0.32.0" in text
    assert "1 hooks, 1 installed" in text


def test_bars_are_the_means(demo: Path) -> None:
    drawn = bars.phases(overview(demo).tables.scenarios)
    assert drawn is not None
    rows = {bar.name: {s.name: s for s in bar.segments} for bar in drawn.bars}
    assert list(rows) == [
        f"{s} · {side}" for s in ("single", "conc4") for side in ("client", "server")
    ]
    assert "tokenize wait" not in rows["single · server"], "nobody waited"
    assert rows["conc4 · server"]["tokenize wait"].value == pytest.approx(270 / 19)
    assert rows["conc4 · server"]["tokenize wait"].said == "14.21 ms (8.4 %)"
    assert rows["single · client"]["HTTP OH"].value == pytest.approx(15)
    assert "detokenize (busy)" not in rows["conc4 · server"]
    # One axis: lengths are to each other as times are.
    longest = sum(s.width for s in rows["conc4 · client"].values())
    assert longest == pytest.approx(100)
    ratio = rows["conc4 · client"]["HTTP OH"].width / rows["single · client"]["HTTP OH"].width
    assert ratio == pytest.approx(2)


def test_all_requests_are_inside_once(page: str) -> None:
    found = data(page)
    made = {f"{t.trace_id:032x}": t for t in traces.traces()}
    assert sorted(d[0] for d in found["requests"]) == sorted(made)
    assert "All 40 requests are in this file." in page
    for document in found["requests"]:
        trace = made[document[0]]
        assert document[7] == trace.root.duration_ns
        assert [(s[3], s[4]) for s in document[8]] == [
            (s.start_ns - trace.root.start_ns, s.duration_ns) for s in trace.spans
        ]
    scenarios = {found["names"][d[4]] for d in found["requests"]}
    assert scenarios == {"single", "conc4"}


def test_one_scenario_has_its_own_requests(demo: Path) -> None:
    found = data(render(overview(demo, scenario="single"), "single"))
    assert len(found["requests"]) == 20
    assert {found["names"][d[4]] for d in found["requests"]} == {"single"}


def test_beyond_the_limit_it_is_a_sample_and_says_so(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "MAX_REQUESTS", 12)
    monkeypatch.setattr(embedded, "SLOWEST", 2)
    page = render(overview(demo))
    assert "A sample: 12 of 40 requests are in this file" in page
    found = data(page)
    assert len(found["requests"]) == 12
    assert EVIL in {found["names"][d[3]] for d in found["requests"]}, "it did not complete"
    slowest = max(t.root.duration_ns for t in traces.traces())
    assert slowest in {d[7] for d in found["requests"]}


def test_what_is_too_large_makes_the_sample_smaller(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = len(json.dumps(data(render(overview(demo)))["requests"], separators=(",", ":")))
    monkeypatch.setattr(embedded, "MAX_BYTES", whole // 2)
    page = render(overview(demo))
    found = data(page)["requests"]
    assert 10 <= len(found) < 30
    assert len(json.dumps(found, separators=(",", ":"))) <= whole // 2
    assert f"A sample: {len(found)} of 40 requests are in this file" in page


def test_without_clients_and_without_completed_requests(tmp_path: Path) -> None:
    failed = [traces.ended(traces.trace_id(1, 1), traces.EPOCH_NS, "failed")]
    capture = traces.write_capture(tmp_path, failed)
    page = render(overview(capture.path))
    assert "h-phases" not in page
    assert "1 failed" in page
    assert len(data(page)["requests"]) == 1


@pytest.mark.parametrize(
    ("longest", "labels"),
    [
        (100.0, ["0", "20", "40", "60", "80", "100"]),
        (0.7, ["0.0", "0.2", "0.4", "0.6"]),
        (5_038.0, ["0", "2,000", "4,000"]),
    ],
)
def test_an_axis_has_round_numbers(longest: float, labels: list[str]) -> None:
    found = bars.ticks(longest)
    assert [tick.label for tick in found] == labels
    assert found[-1].at == pytest.approx(100 * float(labels[-1].replace(",", "")) / longest)
