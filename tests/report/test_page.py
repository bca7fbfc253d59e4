"""One file, offline, and nothing in it that a trace could have smuggled in."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from tests.support import traces
from vllm_codesign.analysis.overview import overview
from vllm_codesign.report import charts
from vllm_codesign.report.page import render

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("demo")
    run = traces.run_info(drops={"api_server": 3})
    run.hooks[0].detail = EVIL
    found = traces.traces()
    root = found[39].root
    evil = {**root.attributes, "session.id": EVIL, "codesign.outcome": EVIL}
    found[39] = replace(found[39], root=replace(root, name=EVIL, attributes=evil))
    traces.write_capture(folder / "capture", found, run)
    (folder / "results.json").write_text(traces.bench_run().model_dump_json())
    return render(overview(folder))


def own(page: str) -> str:
    """The page without Plotly itself."""
    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


def figures(page: str) -> dict[str, dict]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_asks_nobody_for_anything(page: str) -> None:
    assert not re.search(r"https?:|//\w+\.\w", own(page))
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](?!data:)", own(page))


def test_what_comes_from_traces_is_escaped(page: str) -> None:
    assert "<script>alert" not in own(page)
    assert "<img" not in own(page)
    assert own(page).count("</script>") == 3
    hover = figures(page)["waterfall-1-0"]["data"][0]["customdata"]
    assert not any("<img" in text or "<script" in text for (text,) in hover)


def test_says_that_it_is_lossy_before_anything_else(page: str) -> None:
    body = own(page).split("<main>", 1)[1]
    assert body.split(">", 1)[0].strip() == '<p class="lossy" role="alert"'
    assert "3 records were lost (api_server 3)." in body


def test_headline_tables_and_run(page: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", own(page)))
    assert "conc4: of the 29.21 ms that the client calls HTTP overhead" in text
    assert "tokenize wait 14.21 10.00 30.00 8.4 % 19" in text
    assert "HTTP OH 30.00 25.00 45.00 20" in text
    assert "vllm 0.32.0" in text
    assert "1 hooks, 1 installed" in text


def test_every_chart_has_its_figure(page: str) -> None:
    wanted = re.findall(r'data-chart="([^"]+)"', own(page))
    assert sorted(wanted) == sorted(figures(page))
    assert len(wanted) == 1 + 2 * 5


def test_bars_are_the_means(page: str) -> None:
    bars = {bar["name"]: bar for bar in figures(page)["phases"]["data"]}
    assert bars["tokenize wait"]["y"] == ["single · server", "conc4 · server"]
    assert bars["tokenize wait"]["x"] == pytest.approx([0, 270 / 19])
    assert bars["HTTP OH"]["x"] == pytest.approx([15, 30])
    assert "detokenize (busy)" not in bars


def test_waterfall_has_every_span_where_it_was() -> None:
    trace = traces.completed(1, traces.EPOCH_NS, wait_ms=30, choices=2)
    (bar,) = charts.waterfall(trace)["data"]
    assert len(bar["x"]) == len(trace.spans)
    labels = charts.waterfall(trace)["layout"]["yaxis"]["ticktext"]
    row = labels.index("tokenize.encode · 10.00 ms")
    assert (bar["base"][row], bar["x"][row]) == pytest.approx((33, 10))
    assert "prefill #1 · 40.00 ms" in labels
    hover = bar["customdata"][labels.index("decode #1 · 100.0 ms")][0]
    assert "event codesign.preempted at" in hover
    assert "codesign.decode.itl_us = 5000, 5000" in hover
    assert "…" in hover


def test_without_clients_and_without_completed_requests(tmp_path: Path) -> None:
    failed = [traces.ended(traces.trace_id(1, 1), traces.EPOCH_NS, "failed")]
    capture = traces.write_capture(tmp_path, failed)
    page = render(overview(capture.path))
    assert "phases" not in figures(page)
    assert "1 failed" in page
