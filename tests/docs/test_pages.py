"""What pages written by hand say of the code, held against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import generate_messages
from vllm_codesign import semconv
from vllm_codesign.recorder.layout import Field
from vllm_codesign.semconv.types import Attribute

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROOT = DOCS.parent
PAGES = sorted(DOCS.glob("*.md"))


def _known() -> set[str]:
    """Every name that begins with `codesign.`, from all rooms of `semconv`."""
    found: set[str] = set()
    for room in [ROOT / "vllm_codesign" / "semconv", ROOT / "vllm_codesign" / "hooks"]:
        for file in room.rglob("*.py"):
            found |= set(re.findall(r'"(codesign\.[a-z0-9_.]+)"', file.read_text()))
    for span in (*semconv.SPANS, *semconv.STEP_SPANS):
        found |= {attribute.key for attribute in span.attributes}
    for value in vars(semconv).values():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Attribute):
                found.add(each.key)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_names_on_a_page_exist(page: Path) -> None:
    known = _known()
    for name in re.findall(r"`(codesign\.[a-z0-9_.]*[a-z0-9_*])`", page.read_text()):
        if name.endswith("*") or name.endswith("*_ns"):
            prefix = name.partition("*")[0]
            assert any(each.startswith(prefix) for each in known), name
        else:
            assert name in known, name


def test_a_name_that_is_no_longer_there_is_found() -> None:
    assert "codesign.part.frontend.wait_ns" in _known()
    assert "codesign.part.frontend.waiting_ns" not in _known()


def test_troubleshooting_quotes_lines_as_they_are_said() -> None:
    said = {each.text.removeprefix("codesign: ") for each in generate_messages.messages()}
    blocks = re.findall(r"```text\n(.*?)```", (DOCS / "troubleshooting.md").read_text(), re.S)
    quoted = [line for block in blocks for line in block.splitlines()]
    assert len(quoted) > 30
    assert [line for line in quoted if line not in said] == []


def test_security_names_every_string_that_is_recorded() -> None:
    page = (DOCS / "security.md").read_text()
    for field in Field:
        assert f"`{field.name}`" in page, field


def test_the_parts_of_the_trace_that_is_read_aloud_add_up() -> None:
    page = (DOCS / "reading_a_trace.md").read_text()
    rows = re.findall(r"\| `codesign\.part\.([a-z._]+)_ns` \| ([\d,]+) \|", page)
    parts = {semconv.Part(name): int(ns.replace(",", "")) for name, ns in rows}
    (total,) = re.findall(r"\| sum \| ([\d,]+) \|", page)
    assert sum(parts.values()) == int(total.replace(",", ""))
    exposed = sum(ns for part, ns in parts.items() if part in semconv.HOST_PARTS)
    assert f"`codesign.host.exposed_ns` is {exposed:,}" in page


def test_the_spans_of_that_trace_are_told_in_the_order_in_which_they_begin() -> None:
    page = (DOCS / "reading_a_trace.md").read_text()
    first, _, second = page.partition("## The step behind it")
    for text, spans in ((first, semconv.SPANS), (second, semconv.STEP_SPANS)):
        lines = re.findall(r"^ {4} +([\d.]+) +([\d.]+)  (vllm\S*) +(\S.*)$", text, re.M)
        assert len(lines) > 7
        starts = [float(start) for start, *_ in lines]
        assert starts == sorted(starts)
        services = {each.name: semconv.DEFAULT_SERVICE_NAME + each.service for each in spans}
        for _, _, service, name in lines:
            assert (
                services[name.replace("POST /v1/chat/completions", "{method} {route}")] == service
            )
