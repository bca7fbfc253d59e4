"""A table without lines, for a narrow terminal: names are folded, and no figure loses a digit."""

from __future__ import annotations

from typing import Literal

from rich.table import Table
from rich.text import Text


def narrow_table(title: str, *columns: str, names: int = 1) -> Table:
    """The first `names` columns hold names, the rest figures."""
    table = Table(box=None, padding=(0, 1, 0, 0), title=Text(title, "italic"), title_justify="left")
    for index, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if index < names else "right"
        table.add_column(column, justify=justify, no_wrap=index >= names, overflow="fold")
    return table
