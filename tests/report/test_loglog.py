"""Points of the plots: where they stand, what is told of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.micro import SIZES, run, timing
from vllm_codesign.report.colours import SERIES, luminance
from vllm_codesign.report.loglog import Line, Panel, panels
from vllm_codesign.report.micro_page import render_micro


def panel(title: str, against: str = "tokens") -> Panel:
    (found,) = [p for p in panels(run()) if (p.title, p.against) == (title, against)]
    return found


def slope(line: Line, panel: Panel) -> float:
    """Decades up for each decade across, by the places of the axes' labels."""
    across = panel.across[1].at - panel.across[0].at
    up = panel.up[0].at - panel.up[1].at
    first, last = line.marks[0], line.marks[-1]
    return ((first.y - last.y) / up) / ((last.x - first.x) / across)


def test_which_panels() -> None:
    assert [(p.title, p.against) for p in panels(run())] == [
        ("encode", "tokens"),
        ("detokenize_step", "tokens"),
        ("schedule, decode", "tokens"),
        ("schedule, decode", "requests"),
    ]
    assert [line.name for line in panel("schedule, decode", "requests").lines] == [
        f"{size:,} tokens" for size in SIZES
    ]


def test_the_slope_is_the_exponent() -> None:
    encode = panel("encode")
    assert [t.text for t in encode.across] == ["1k", "10k", "100k"]
    assert slope(encode.lines[0], encode) == pytest.approx(1.0, abs=0.01)
    step = panel("detokenize_step")
    assert [line.name for line in step.lines] == ["fast", "slow"]
    assert slope(step.lines[0], step) == pytest.approx(0.0, abs=0.01)
    requests = panel("schedule, decode", "requests")
    assert slope(requests.lines[0], requests) == pytest.approx(1.0, abs=0.01)


def test_the_studys_points_lie_where_they_should() -> None:
    encode = panel("encode")
    ours, study = encode.lines
    assert (study.name, study.hollow, study.path) == ("the study", True, "")
    at_1k = next(mark for mark in study.marks if mark.said.startswith("1,000 "))
    assert at_1k.said == "1,000 tokens 1.50 ms"
    assert at_1k.x == ours.marks[0].x
    assert at_1k.y > ours.marks[0].y, "it took the study less"


def test_intervals_and_what_is_read_aloud() -> None:
    encode = panel("encode")
    assert all(mark.high < mark.y < mark.low for mark in encode.lines[0].marks)
    assert encode.aloud.startswith(
        "encode, time against tokens. encode: 1,000 tokens 2.00 ms, 10,000 tokens 20.0 ms"
    )
    assert encode.aloud.endswith("exponent 1.00 [0.98, 1.02], linear")


def test_a_claim_is_no_point() -> None:
    hashes = [timing("block_hash", 10.0 * size, tokens=size) for size in SIZES]
    (found,) = panels(run().model_copy(update={"timings": hashes}))
    assert [line.name for line in found.lines] == ["block_hash"], "the study says < 1 ms of it"


def test_a_single_size_is_no_line() -> None:
    one = run().model_copy(update={"timings": [timing("encode", 5.0, tokens=1_000)]})
    assert panels(one) == ()


def test_colours_can_be_seen_on_both_pages() -> None:
    for colour in SERIES:
        for page in ("#ffffff", "#f6f7f9", "#14181f", "#1b212a"):
            high, low = sorted((luminance(colour), luminance(page)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, (colour, page)


def test_the_page_asks_for_nothing_and_escapes_everything() -> None:
    page = render_micro(run(), Path("out/<b>.json"))
    assert "A &lt;processor&gt;" in page
    assert "out/&lt;b&gt;.json" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert page.count('role="img"') == 4
    assert "lmcache is not installed" in page
