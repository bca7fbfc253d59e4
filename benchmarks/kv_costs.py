"""What hashing, looking up and caching a prompt's blocks costs, by its length.

    python benchmarks/kv_costs.py                          # a table, and OUT/kv_costs.json
    python benchmarks/kv_costs.py --lmcache-log FILE       # also what LMCache's server says

The MI300X study timed one SHA-256 over a prompt's bytes and concluded that hashing takes less
than 1 ms at 100,000 tokens. vLLM hashes block by block, each with the hash before it, and does so
for every request on EngineCore's input thread. Here its own classes do their work without a
model: `Request` and its block hasher, `KVCacheManager` and its block pool; LMCache's own
`TokenHasher` makes its keys. The rows of EngineCore's hooks on these are timed beside them.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# Run as a file, Python looks for modules in this folder only, and not beside it.
sys.path[0] = str(Path(__file__).parents[1])

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks import machine  # noqa: E402
from benchmarks.intervals import Interval, median_interval  # noqa: E402
from benchmarks.kv_pool import Pool, hooked  # noqa: E402
from vllm_codesign.micro.block_hashes import (  # noqa: E402
    BLOCK_SIZES,
    HASHES,
    hasher,
    request_of,
)
from vllm_codesign.micro.hashing import LMCACHE_CHUNK, STUDY_BYTES, lmcache_hasher  # noqa: E402

LENGTHS = (1_000, 8_000, 32_000, 100_000)
STUDY_MS = 0.62
"""Of the study, `sha256_hash_100000`, mean."""
_STORED = re.compile(r"(Stored|Retrieved) (\d+) tokens in ([\d.]+) seconds")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row at one length: milliseconds a prompt."""

    what: str
    tokens: int
    ms: Interval


def timed(run: Callable[[], Any]) -> float:
    """Milliseconds."""
    begun = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - begun) / 1e6


def one_round(tokens: list[int], number: int, source: random.Random) -> Iterator[tuple[str, float]]:
    """Every row once, on a prompt that no other round begins like."""
    text = source.randbytes(STUDY_BYTES * len(tokens))
    yield (
        "one SHA-256 over the text (the study's way)",
        timed(lambda: hashlib.sha256(text).digest()),
    )
    for block_size in BLOCK_SIZES:
        for name in HASHES:
            request = request_of(f"h{number}", tokens, None)
            hash_blocks = hasher(name, block_size)
            yield (
                f"vLLM's block hashes, {name}, blocks of {block_size}",
                timed(lambda f=hash_blocks, r=request: f(r)),
            )
    for block_size in BLOCK_SIZES:
        pool = Pool(block_size, len(tokens))
        for which in source.sample(("plain", "hooked"), 2):
            with hooked(pool) if which == "hooked" else _plain():
                for row, ms in _pool_rows(pool, tokens, f"{which}{number}"):
                    yield f"{row}, blocks of {block_size}, {which}", ms
    lmcache = _lmcache_hasher()
    if lmcache is not None:
        chunks = [
            tuple(tokens[at : at + LMCACHE_CHUNK])
            for at in range(0, len(tokens) - LMCACHE_CHUNK + 1, LMCACHE_CHUNK)
        ]
        yield (
            f"LMCache's keys, {lmcache.hash_algorithm_name}, chunks of {LMCACHE_CHUNK}",
            timed(lambda: _chain(lmcache, chunks)),
        )


@contextmanager
def _plain() -> Iterator[None]:
    yield


def _pool_rows(pool: Pool, tokens: list[int], name: str) -> Iterator[tuple[str, float]]:
    """A prompt that nobody has, its blocks, then the same prompt again."""
    first = pool.request(f"{name}a", tokens)
    yield "vLLM's lookup, nothing cached", timed(lambda: pool.look_up(first))
    yield "vLLM's blocks got and cached", timed(lambda: pool.allocate(first))
    pool.free(first)
    again = pool.request(f"{name}b", tokens)
    yield "vLLM's lookup, all cached", timed(lambda: pool.look_up(again))
    yield "vLLM's cached blocks taken", timed(lambda: pool.allocate(again))
    pool.free(again)
    other = pool.request(f"{name}c", list(reversed(tokens)))
    pool.look_up(other)
    yield "vLLM's blocks got by evicting", timed(lambda: pool.allocate(other))
    pool.free(other)
    pool.empty()


@cache
def _lmcache_hasher() -> Any:
    """LMCache's, None where it is not installed."""
    try:
        return lmcache_hasher()
    except ImportError:
        return None


def _chain(hasher: Any, chunks: list[tuple[int, ...]]) -> None:
    prefix = hasher.none_hash
    for chunk in chunks:
        prefix = hasher.hash_func((prefix, chunk, None))


def measure(rounds: int, lengths: tuple[int, ...]) -> list[Figure]:
    """All rows at all lengths, in turn; medians over the rounds."""
    source = random.Random(0)
    spent: dict[tuple[str, int], list[float]] = {}
    gc.collect()
    gc.freeze()
    for number in range(rounds + 1):
        for length in source.sample(lengths, len(lengths)):
            tokens = [source.randrange(100, 30_000) for _ in range(length)]
            gc.disable()
            for what, ms in one_round(tokens, number, source):
                if number:  # the first warms up
                    spent.setdefault((what, length), []).append(ms)
            gc.enable()
    return [Figure(what, length, median_interval(ms)) for (what, length), ms in spent.items()]


def logged(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(tokens, milliseconds) of what LMCache's server says it stored and retrieved."""
    found: dict[str, list[tuple[int, float]]] = {}
    for verb, tokens, seconds in _STORED.findall(path.read_text(errors="replace")):
        found.setdefault(verb, []).append((int(tokens), float(seconds) * 1e3))
    if not found:
        raise SystemExit(f"{path}: LMCache's log says of no token that it was stored: name its log")
    return found


def show(figures: list[Figure], lengths: tuple[int, ...], console: Console) -> None:
    table = Table(title="milliseconds a prompt, median", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    for length in lengths:
        table.add_column(f"{length:,}", justify="right")
    table.add_column("us per 1,000 tokens\nat the longest [95 %]", justify="right", no_wrap=True)
    by_row: dict[str, dict[int, Interval]] = {}
    for figure in figures:
        by_row.setdefault(figure.what, {})[figure.tokens] = figure.ms
    for what, row in sorted(by_row.items()):
        longest = row[lengths[-1]].scaled(1e6 / lengths[-1])
        table.add_row(
            what,
            *(f"{row[length].median:.3f}" for length in lengths),
            f"{longest.median:.1f} [{longest.low:.1f}, {longest.high:.1f}]",
        )
    console.print(table)
    if lengths[-1] == LENGTHS[-1]:
        _verdict(by_row, console)


def _verdict(by_row: dict[str, dict[int, Interval]], console: Console) -> None:
    hashes = {w: r[LENGTHS[-1]] for w, r in by_row.items() if "block hashes" in w}
    what, best = min(hashes.items(), key=lambda item: item[1].median)
    one = next(r[LENGTHS[-1]] for w, r in by_row.items() if w.startswith("one SHA-256"))
    says = "holds" if best.high < 1 else "does not hold"
    console.print(
        f'"< 1 ms at 100k tokens" (the study: {STUDY_MS} ms) {says} for what vLLM does: one '
        f"SHA-256 takes {one.median:.2f} ms here, the cheapest of vLLM's ways {best.median:.1f} ms "
        f"({what})",
        soft_wrap=True,
    )


def show_logged(found: dict[str, list[tuple[int, float]]], console: Console) -> None:
    for verb, each in found.items():
        per = median_interval([ms * 1e6 / tokens for tokens, ms in each])
        console.print(
            f"LMCache's server, {verb.lower()}: {len(each)} times, {sum(t for t, _ in each):,} "
            f"tokens; us per 1,000 tokens {per.median:.0f} [{per.low:.0f}, {per.high:.0f}]",
            soft_wrap=True,
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=machine.ROOT / "out/kv_costs")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--lmcache-log", type=Path, help="of `lmcache server`")
    parser.add_argument("--quick", action="store_true", help="does it run? short prompts alone")
    options = parser.parse_args()
    if options.lmcache_log is not None and not options.lmcache_log.is_file():
        parser.error(f"{options.lmcache_log} is no file: name the log of `lmcache server`")
    return options


def main() -> int:
    options = parse()
    lengths = LENGTHS[:2] if options.quick else LENGTHS
    rounds = 3 if options.quick else options.rounds
    with tempfile.TemporaryDirectory(prefix="codesign-kv-", dir="/dev/shm") as folder:
        Pool.record_into(Path(folder))
        figures = measure(rounds, lengths)
    console = Console(width=None if sys.stdout.isatty() else 160)
    show(figures, lengths, console)
    told = logged(options.lmcache_log) if options.lmcache_log is not None else {}
    show_logged(told, console)
    options.out.mkdir(parents=True, exist_ok=True)
    written = {
        "version": 1,
        "machine": machine.describe(),
        "rounds": rounds,
        "ms": [
            {"what": f.what, "tokens": f.tokens, **f.ms.as_dict()}
            for f in sorted(figures, key=lambda f: (f.what, f.tokens))
        ],
        "lmcache_log": told,
    }
    (options.out / "kv_costs.json").write_text(json.dumps(written, indent=1))
    print(f"written: {options.out / 'kv_costs.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
