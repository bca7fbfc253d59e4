"""LMCache's own spans in `codesign analyze`."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from vllm_codesign.analysis.finding import number
from vllm_codesign.analysis.lmcache import LMCache
from vllm_codesign.cli.narrow_table import narrow_table


def lmcache_table(found: LMCache | None) -> RenderableType:
    """Nothing where LMCache has no span."""
    if found is None:
        return Group()
    parts: list[RenderableType] = [Text("")]
    if found.kinds:
        table = narrow_table(
            "LMCache's own spans (beside the accounting)",
            *("span", "spans", "requests", "mean ms", "max ms"),
        )
        for kind in found.kinds:
            times = number(kind.mean_ms), number(kind.max_ms)
            table.add_row(Text(kind.name), f"{kind.spans:,}", f"{kind.requests:,}", *times)
        parts.append(table)
    if found.of:
        columns = ("request", "span", "after ms", "for ms")
        listed = narrow_table("the same, by request", *columns, names=2)
        for each in found.of:
            times = number(each.after_ms), number(each.ms)
            listed.add_row(Text(each.request_id), Text(each.name), *times)
        parts.append(listed)
    if found.unjoined:
        parts.append(Text(f"{found.unjoined:,} of LMCache's spans are of requests not read here"))
    return Group(*parts)
