"""The KV caches' tables as text, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vllm_codesign.analysis.accounts import THROUGHPUT
from vllm_codesign.analysis.kv import KV
from vllm_codesign.analysis.kv_waits import Waits
from vllm_codesign.analysis.sheet import Sheet

_MIB = 1 << 20


def kv_sheets(kv: KV, waits: Sequence[Waits] = ()) -> tuple[Sheet, ...]:
    """Nothing where no connector was called and nothing was found or evicted."""
    return tuple(_sheets(kv, waits))


def _sheets(kv: KV, waits: Sequence[Waits]) -> Iterator[Sheet]:
    if kv.transfers:
        yield _transfers(kv)
    if waits:
        yield _waits(waits)
    if kv.evictions:
        yield _evictions(kv)
    if any(s.hit_hbm or s.hit_external or s.computed_again for s in kv.sessions):
        yield _sessions(kv)


def _transfers(kv: KV) -> Sheet:
    return Sheet(
        "KV transfers (mean: from the order to its known end; queued: of it in the waiting queue)",
        (
            *("span", "connector", "tier", "n", "tokens", "MiB a rank", "mean ms"),
            *("queued ms", "not there"),
        ),
        3,
        tuple(
            (
                *(t.what, t.connector, t.tier, str(t.requests), f"{t.tokens:,}"),
                *(f"{t.bytes / _MIB:,.1f}", _known(t.mean_ms), _known(t.queued_ms)),
                f"{t.recomputed:,}",
            )
            for t in kv.transfers
        ),
        heads=3,
    )


def _known(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:,.1f}"


def _waits(waits: Sequence[Waits]) -> Sheet:
    return Sheet(
        f"workers in the connector's calls ({THROUGHPUT}), ms over all ranks",
        ("engine", "calls for", "n", "ms", "hidden", "exposed", "by layer"),
        2,
        tuple(
            (
                *(str(w.engine), w.work, f"{w.calls:,}"),
                *(_ms(ns) for ns in (w.total_ns, w.hidden_ns, w.exposed_ns, w.layers_ns)),
            )
            for w in waits
        ),
        heads=2,
    )


def _ms(ns: int) -> str:
    return f"{ns / 1e6:,.2f}"


def _evictions(kv: KV) -> Sheet:
    return Sheet(
        f"who evicted whom ({kv.evicted_blocks:,} cached blocks in all)",
        ("session", "took from", "blocks", "times", "idle s"),
        2,
        tuple(
            (
                *(e.by, e.of, f"{e.blocks:,}", f"{e.times:,}"),
                f"{e.idle_s:.2f}" if e.idle_s is not None else "–",
            )
            for e in kv.evictions
        ),
        heads=2,
    )


def _sessions(kv: KV) -> Sheet:
    return Sheet(
        f"prompt tokens by session ({kv.computed_again:,} computed again after an eviction)",
        ("session", "requests", "prompt", "HBM hit", "external", "again", "held MiB s"),
        1,
        tuple(
            (
                *(s.session, f"{s.requests:,}", f"{s.prompt_tokens:,}", f"{s.hit_hbm:,}"),
                *(f"{s.hit_external:,}", f"{s.computed_again:,}"),
                f"{s.held_byte_s / _MIB:,.1f}",
            )
            for s in kv.sessions
        ),
    )
