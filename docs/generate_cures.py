"""Writes the table of cures into `report.md`: `make docs`."""

from __future__ import annotations

from pathlib import Path

from vllm_codesign.analysis.cures import AHEAD, CURES, Cure

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
            f"{_old(cure.old_change)} | {cure.at_most} |"
            for cure in CURES
        ),
    ]
    return "\n".join(rows) + "\n"


def _change(cure: Cure) -> str:
    """As it is said of a server on a GPU."""
    return cure.change.format(workers="{workers}", limit="{limit}", ahead=AHEAD)


def _code(value: str | None) -> str:
    return f"`{value}`" if value else ""


def _old(change: str) -> str:
    return f"; vLLM 0.19: {change}" if change else ""


def page() -> str:
    """The page with the table between its marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{after}"
