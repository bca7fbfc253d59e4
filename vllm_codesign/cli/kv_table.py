"""The KV caches' tables of `codesign analyze`."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vllm_codesign.analysis.kv import KV
from vllm_codesign.cli.narrow_table import narrow_table

_MIB = 1 << 20


def kv_table(kv: KV) -> RenderableType:
    """Nothing where no connector moved anything and nothing was found or evicted."""
    tables: list[RenderableType] = []
    if kv.transfers:
        tables.append(_transfers(kv))
    if kv.evictions:
        tables.append(_evictions(kv))
    if any(s.hit_hbm or s.hit_external or s.computed_again for s in kv.sessions):
        tables.append(_sessions(kv))
    return Group("", *tables) if tables else Group()


def _transfers(kv: KV) -> Table:
    table = narrow_table(
        "KV transfers (mean: from the order to its known end)",
        *("span", "connector", "tier", "n", "tokens", "MiB a rank", "mean ms", "not there"),
        names=3,
    )
    for t in kv.transfers:
        table.add_row(
            *(t.what, Text(t.connector), t.tier, str(t.requests), f"{t.tokens:,}"),
            *(f"{t.bytes / _MIB:,.1f}", f"{t.mean_ms:,.1f}", f"{t.recomputed:,}"),
        )
    return table


def _evictions(kv: KV) -> Table:
    table = narrow_table(
        f"who evicted whom ({kv.evicted_blocks:,} cached blocks in all)",
        *("session", "took from", "blocks", "times", "idle s"),
        names=2,
    )
    for e in kv.evictions:
        idle = f"{e.idle_s:.2f}" if e.idle_s is not None else "–"
        table.add_row(Text(e.by), Text(e.of), f"{e.blocks:,}", f"{e.times:,}", idle)
    return table


def _sessions(kv: KV) -> Table:
    table = narrow_table(
        f"prompt tokens by session ({kv.computed_again:,} computed again after an eviction)",
        *("session", "requests", "prompt", "HBM hit", "external", "again", "held MiB s"),
    )
    for s in kv.sessions:
        table.add_row(
            *(Text(s.session), f"{s.requests:,}", f"{s.prompt_tokens:,}", f"{s.hit_hbm:,}"),
            *(f"{s.hit_external:,}", f"{s.computed_again:,}", f"{s.held_byte_s / _MIB:,.1f}"),
        )
    return table
