"""The patched tokenizer against the same tokenizer used alone, and at its own speed."""

from pathlib import Path

import pytest

from tests.patches import stress, vllm_019

pytest.importorskip("transformers")


@pytest.mark.parametrize("workers", [2, 4])
async def test_64_clients_get_what_one_gets(patched: Path, workers: int) -> None:
    load = stress.Load(vllm_019.module_of(patched), workers, seed=workers)
    outcome = await load.run(seconds=1.5)
    assert outcome.wrong == []
    kinds = {"encoded", "decoded", "failed", "cancelled", "rendered", "encoded on the event loop"}
    assert {kind for kind, count in outcome.counts.items() if count > 5} == kinds


async def test_the_load_finds_a_shared_tokenizer(patched: Path) -> None:
    """What the copies are for: with one tokenizer for two threads the same load fails.

    tokenizers 0.22 raises "Already borrowed"; 0.23 truncates by the other thread's options.
    """
    module = vllm_019.module_of(patched)
    for seed in range(8):
        load = stress.Load(module, 2, seed)
        idle = load.tokenizer._idle_tokenizers
        shared = idle.get_nowait()
        idle.get_nowait()
        for _ in range(2):
            idle.put_nowait(shared)
        if (await load.run(seconds=2)).wrong:
            return
    pytest.fail("two threads shared a tokenizer for 16 s, and nothing came of it")
