"""Writes the table of cures into `report.md`: `make docs`."""

from __future__ import annotations

from pathlib import Path

from vllm_codesign.analysis.cure_texts import filled
from vllm_codesign.analysis.cures import CURES, Cure
from vllm_codesign.analysis.server_settings import ServerSettings

PAGE = Path(__file__).with_name("report.md")
_BEGIN = "<!-- cures: docs/generate_cures.py writes what follows -->\n"
_END = "<!-- end of cures -->\n"


def table() -> str:
    """A row for each cause, in the order of a request's way."""
    rows = [
        "| cause | part | idle cause | what would change it | at most |",
        "|---|---|---|---|---|",
        *(
            f"| {cure.label} | `{cure.part.value}` | {_code(cure.idle)} | {_change(cure)}"
            f" | {cure.at_most} |"
            for cure in CURES
        ),
    ]
    return "\n".join(rows) + "\n"


_TEXTS = {**filled(ServerSettings(), None, {}), "workers": "{workers}", "limit": "{limit}"}


def _change(cure: Cure) -> str:
    """As it is said of a server on a GPU of which nothing is known."""
    said = "; ".join(way.text for way in cure.ways)
    if cure.then:
        said += f"; where that is set: {cure.then}"
    if cure.old_change:
        said += f"; vLLM 0.19: {cure.old_change}"
    return said.format(**_TEXTS)


def _code(value: str | None) -> str:
    return f"`{value}`" if value else ""


def page() -> str:
    """The page with the table between its marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{after}"
