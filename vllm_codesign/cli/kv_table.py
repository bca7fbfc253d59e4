"""The KV caches' tables of `codesign analyze`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vllm_codesign.analysis.kv import KV
from vllm_codesign.analysis.kv_sheets import kv_sheets
from vllm_codesign.analysis.kv_waits import Waits
from vllm_codesign.analysis.sheet import Sheet
from vllm_codesign.cli.narrow_table import narrow_table


def kv_table(kv: KV, waits: Sequence[Waits] = ()) -> RenderableType:
    """Nothing where no connector was called and nothing was found or evicted."""
    tables = [sheet_table(sheet) for sheet in kv_sheets(kv, waits)]
    return Group("", *tables) if tables else Group()


def sheet_table(sheet: Sheet) -> Table:
    """The cells of a sheet, for a narrow terminal."""
    table = narrow_table(sheet.title, *sheet.columns, names=sheet.names)
    for row in sheet.rows:
        table.add_row(*map(Text, row))
    return table
