"""The comparison of `codesign bench --arm`: the study's table, the accounting beside it."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from vllm_codesign.analysis.arms import Comparison
from vllm_codesign.analysis.arms_sheet import arms_sheet


def arms_table(comparison: Comparison) -> Table:
    """One row per scenario and arm."""
    sheet = arms_sheet(comparison)
    made = Table(title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, header in enumerate(sheet.columns):
        left = place < sheet.names or not header
        made.add_column(header, justify="left" if left else "right", no_wrap=True)
    for place, row in enumerate(sheet.rows):
        if place and row[0]:
            made.add_section()
        made.add_row(*map(Text, row))
    return made
