"""The report in a real browser: it draws, is searched, is used without a mouse, and is quick."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import REQUESTS, SHOTS
from tests.support import traces
from tests.support.browser import Page
from tests.support.report_page import BARS, check_bars, rows, search
from vllm_codesign.analysis.server import outcome
from vllm_codesign.model.trace import RequestTrace

OPEN_MS = 20_000
"""A page that takes longer is broken, however slow the machine; how quick it is, is printed."""
BYTES = 6_000_000

# A control, and whether it can be seen.
_CONTROLS = """[...document.querySelectorAll(
  'a[href], button, input, select, summary, [tabindex="0"]')]
  .filter(e => !e.disabled && e.checkVisibility())"""
_CHOOSE = """(select => {{ select.value = '{value}'; select.dispatchEvent(new Event('change')); }})
  (document.getElementById('{name}'))"""
_REFERENCES = """[...document.querySelectorAll('[aria-labelledby], [aria-controls], [href^="#"]')]
  .flatMap(e => [e.getAttribute('aria-labelledby'), e.getAttribute('aria-controls'),
    (e.getAttribute('href') || '').slice(1)])
  .filter(id => id && !document.getElementById(id))"""


@pytest.fixture
def opened(page: Page, report: Path) -> Page:
    page.open(report.as_uri())
    return page


def test_it_is_small_and_quick(
    opened: Page, report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = report.stat().st_size
    times = opened.evaluate(
        "(n => ({interactive: n.domInteractive, complete: n.loadEventEnd}))"
        "(performance.getEntriesByType('navigation')[0])"
    )
    drawn = opened.evaluate("performance.getEntriesByName('codesign-drawn')[0].startTime")
    with capsys.disabled():
        print(
            f"\nreport of {REQUESTS:,} requests: {size / 1e6:.2f} MB; {drawn:.0f} ms to the first "
            f"waterfall, {times['complete']:.0f} ms to the load event"
        )
    assert size < BYTES
    assert drawn < OPEN_MS
    assert opened.evaluate("document.getElementById('status').textContent") == "1,000 requests"


def test_nothing_is_complained_of_and_nobody_is_asked(opened: Page, report: Path) -> None:
    opened.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    search(opened, "agent-3")
    assert opened.complaints == []
    assert opened.requested == [report.as_uri()]


def test_bars_are_the_spans(opened: Page, requests: list[RequestTrace]) -> None:
    by_id = {f"{t.trace_id:032x}": t for t in requests}
    for wanted in (rows(opened)[0], rows(opened)[5], f"{traces.trace_id(3, 99):032x}"):
        search(opened, wanted)
        opened.evaluate("document.querySelector('#list tbody button').click()")
        opened.wait(f"document.querySelector('#detail').textContent.includes('{wanted}')")
        check_bars(opened, by_id[wanted])


def test_the_axis_can_end_at_the_first_token(opened: Page) -> None:
    whole = {b["name"]: b for b in opened.evaluate(BARS)}
    opened.evaluate(_CHOOSE.format(name="fit", value="first"))
    first = {b["name"]: b for b in opened.evaluate(BARS)}
    until = whole["prefill"]["start"] + whole["prefill"]["length"]
    zoom = whole["POST /v1/chat/completions"]["length"] / until
    assert zoom > 1.3
    for name in ("tokenize.wait", "prefill"):
        assert first[name]["width"] == pytest.approx(zoom * whole[name]["width"], rel=0.01)
    assert first["prefill"]["left"] + first["prefill"]["width"] == pytest.approx(
        first["prefill"]["whole"], abs=1
    )


def test_search_finds_by_trace_request_session_and_scenario(
    opened: Page, requests: list[RequestTrace]
) -> None:
    one = traces.trace_id(3, 123)
    found, said = search(opened, f"{one:032x}")
    assert (found, said) == ([f"{one:032x}"], "1 request found")
    found, said = search(opened, f"REQ-{one:x}-0")
    assert (found, said) == ([f"{one:032x}"], "1 request found")
    _, said = search(opened, "agent-16")
    of_session = [t for t in requests if t.root.attributes["session.id"] == "agent-16"]
    assert said == f"{len(of_session)} requests found"
    _, said = search(opened, "conc16")
    assert said == "1,000 requests found"
    found, said = search(opened, "nothing like it")
    assert (found, said) == ([], "No request found.")


def test_order_outcome_and_pages(opened: Page, requests: list[RequestTrace]) -> None:
    def choose(name: str, value: str) -> None:
        opened.evaluate(_CHOOSE.format(name=name, value=value))
        opened.evaluate("new Promise(done => setTimeout(done, 20))")

    choose("order", "earliest")
    assert rows(opened) == [f"{t.trace_id:032x}" for t in requests[:10]]
    opened.evaluate("document.getElementById('next').click()")
    assert rows(opened) == [f"{t.trace_id:032x}" for t in requests[10:20]]
    choose("outcome", "aborted")
    aborted = [f"{t.trace_id:032x}" for t in requests if outcome(t) == "aborted"]
    assert rows(opened) == aborted[:10]
    assert opened.evaluate("document.getElementById('previous').disabled")


def test_a_link_opens_its_request(page: Page, report: Path) -> None:
    wanted = f"{traces.trace_id(3, 321):032x}"
    page.open(f"{report.as_uri()}#trace={wanted}")
    assert rows(page) == [wanted]
    assert wanted in page.evaluate("document.querySelector('#detail').textContent")


def test_the_steps_of_the_slowest_are_drawn(opened: Page) -> None:
    said = opened.evaluate("document.querySelector('#detail details summary').textContent")
    assert "engine steps, as a table" in said
    rows_below = opened.evaluate(
        "[...document.querySelectorAll('#waterfall tr.step')].map(row => ["
        "row.querySelector('th').textContent,"
        "row.querySelector('path').getAttribute('d').split('M').length - 1])"
    )
    assert [name for name, _ in rows_below] == [
        f"steps: {kind}" for kind in ("device", "prepare", "schedule", "update")
    ]
    table = opened.evaluate("document.querySelectorAll('#detail details tbody tr').length")
    # Two intervals of the device a step, one of everything else.
    assert [count for _, count in rows_below] == [2 * table, table, table, table]


def test_every_control_is_reached_and_worked_by_the_keyboard(opened: Page) -> None:
    wanted = opened.evaluate(f"{_CONTROLS}.length")
    opened.evaluate(f"{_CONTROLS}.forEach((e, i) => e.dataset.control = i)")
    reached: list[int] = []
    for _ in range(wanted + 5):
        opened.key("Tab")
        at = opened.evaluate("document.activeElement.dataset.control")
        if at is None or int(at) in reached:
            break
        reached.append(int(at))
        seen = opened.evaluate(
            "(e => getComputedStyle(e).outlineStyle !== 'none' || e.matches(':focus'))"
            "(document.activeElement)"
        )
        assert seen
    assert reached == list(range(wanted)), "each once, in the order of the page"

    opened.evaluate("document.querySelectorAll('#list tbody button')[3].focus()")
    trace = rows(opened)[3]
    opened.key("Enter")
    opened.wait(f"document.querySelector('#detail').textContent.includes('{trace}')")
    assert opened.evaluate("document.activeElement.id") == "h-detail", "where the answer is"
    assert opened.evaluate(
        "[...document.querySelectorAll('#list button')].map(b => b.ariaExpanded)"
    ) == ["true" if place == 3 else "false" for place in range(10)]
    opened.evaluate("document.querySelector('#waterfall tbody button').focus()")
    opened.key(" ")
    told = opened.evaluate("document.querySelector('#waterfall tr.more').textContent")
    assert "session.id" in told
    assert "http.response.status_code200" in told
    opened.key(" ")
    assert opened.evaluate("document.querySelector('#waterfall tr.more')") is None
    opened.evaluate("document.querySelector('#detail .tools button').focus()")
    opened.key("Enter")
    assert opened.evaluate("document.activeElement.closest('tr').dataset.trace") == trace


def test_a_screen_reader_is_told_everything_by_name(opened: Page) -> None:
    found = opened.accessibility()
    roles: dict[str, list[dict[str, Any]]] = {}
    for node in found:
        roles.setdefault(node["role"], []).append(node)
    for role in ("button", "searchbox", "combobox", "link", "image", "table", "region", "search"):
        assert roles.get(role), f"there is a {role}"
        assert [n for n in roles[role] if not n["name"].strip()] == [], f"a {role} without a name"
    assert [n["name"] for n in roles["searchbox"]] == ["Request, trace, session or scenario"]
    places = [n["name"] for n in roles["region"]]
    assert len(places) == len(set(places)), "no two regions are called the same"
    levels = [n["level"] for n in roles["heading"]]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [n["name"] for n in roles["status"]], "what a search found is said"
    names = " ".join(n["name"] for n in roles["image"])
    assert "over time: busy" in names
    assert "tokenize wait" in names


_BARE = """[...document.querySelectorAll('tbody tr:not(.more)')]
  .filter(row => !row.querySelector('th[scope="row"]')).length"""
_ODD = """[...document.querySelectorAll('.sheet tbody tr, #list tbody tr, .hooks tbody tr')]
  .filter(row => ['fontWeight', 'fontSize', 'color', 'backgroundColor'].some(
    of => new Set([...row.cells].filter(c => !c.matches('.n, .outcome, .bad'))
      .map(c => getComputedStyle(c)[of])).size > 1)).length"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_row_has_a_header_that_looks_like_its_cells(
    page: Page, report: Path, scheme: str
) -> None:
    page.media(prefers_color_scheme=scheme)
    page.open(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.querySelectorAll('#list tbody th[scope=\"row\"]').length") == 10
    assert page.evaluate("document.querySelectorAll('.sheet tbody th[scope=\"row\"]').length") > 3
    assert page.evaluate(_BARE) == 0
    assert page.evaluate(_ODD) == 0


def test_no_id_is_given_twice_and_every_reference_leads_somewhere(opened: Page) -> None:
    ids = opened.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids)) > 10
    assert opened.evaluate(_REFERENCES) == []


# WCAG 2: text against what lies behind it, 4.5 to 1; 3 to 1 where it is large.
_CONTRAST = """(() => {
  const number = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = number(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const e of document.querySelectorAll('main *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.disabled || e.closest('.hidden')) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(number(style.color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const wanted = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < wanted)
      bad.push([e.textContent.slice(0, 30), ratio]);
  }
  return bad;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(page: Page, report: Path, scheme: str) -> None:
    page.media(prefers_color_scheme=scheme)
    page.open(report.as_uri())
    level = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        ".reduce((a, b) => a + b) / 3"
    )
    assert level > 200 if scheme == "light" else level < 60
    assert page.evaluate(_CONTRAST) == []
    page.screenshot(SHOTS / f"report-{scheme}.png")


def test_a_narrow_window_scrolls_in_its_tables_only(page: Page, report: Path) -> None:
    page.size(400, 800)
    page.open(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.screenshot(SHOTS / "report-narrow.png")
