"""vLLM's real cache manager, hooked as a server has it: what is timed does what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kv_costs import logged, measure
from benchmarks.kv_pool import Pool, hooked
from vllm_codesign.hooks.engine_state import ENGINE
from vllm_codesign.micro.block_hashes import BLOCK_SIZES, HASHES
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import Kind
from vllm_codesign.recorder.reader import RingReader

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
)
TOKENS = list(range(100, 356))


@pytest.fixture
def ring(tmp_path: Path) -> Any:
    Pool.record_into(tmp_path)
    reader = RingReader(next(tmp_path.rglob("*.ring")))
    yield reader
    reader.close()
    active.deactivate()


@needs_vllm
def test_hooks_see_what_the_pool_does(ring: RingReader) -> None:
    pool = Pool(16, len(TOKENS))
    manager, blocks = type(pool.manager), type(pool.manager.block_pool)
    plain = manager.allocate_slots, blocks.get_new_blocks
    with hooked(pool):
        one = pool.request("one", TOKENS)
        pool.look_up(one)
        pool.allocate(one)
        pool.free(one)
        two = pool.request("two", TOKENS)
        pool.look_up(two)
        assert ENGINE.requests["two"].hit == len(TOKENS) - 16, "all but the last block"
        pool.allocate(two)
        pool.free(two)
        other = pool.request("three", TOKENS[::-1])
        pool.look_up(other)
        pool.allocate(other)
        pool.free(other)
    evicted = [record for record in ring.read() if record.kind == Kind.KV_EVICTED]
    # Room for two more: one of these went to the second prompt's last block, which is computed.
    assert sum(record.b for record in evicted) == len(TOKENS) // 16 - 1
    assert (manager.allocate_slots, blocks.get_new_blocks) == plain
    assert ring.errors == 0


@needs_vllm
def test_every_row_is_timed(ring: RingReader) -> None:
    figures = measure(1, (256, 512))
    whats = {figure.what for figure in figures}
    assert {(f.what, f.tokens) for f in figures} == {(w, n) for w in whats for n in (256, 512)}
    assert sum("block hashes" in what for what in whats) == len(HASHES) * len(BLOCK_SIZES)
    for which in ("plain", "hooked"):
        assert sum(what.endswith(which) for what in whats) == 5 * len(BLOCK_SIZES)
    assert all(figure.ms.median > 0 for figure in figures)
    assert ring.errors == 0


def test_what_lmcaches_log_says(tmp_path: Path) -> None:
    log = tmp_path / "lmcache.log"
    log.write_text("Stored 2048 tokens in 0.010 seconds\nRetrieved 256 tokens in 0.004 seconds\n")
    assert logged(log) == {"Stored": [(2048, 10.0)], "Retrieved": [(256, 4.0)]}
    log.write_text("nothing of the kind\n")
    with pytest.raises(SystemExit, match="says of no token"):
        logged(log)
