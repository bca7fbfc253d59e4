"""The patched tokenizer against the same tokenizer used alone, and at its own speed."""

from pathlib import Path

import pytest

from tests.patches import vllm_019

pytest.importorskip("transformers")

from tests.patches import stress  # noqa: E402  # asks for transformers


@pytest.mark.parametrize("workers", [2, 4])
async def test_64_clients_get_what_one_gets(patched: Path, workers: int) -> None:
    load = stress.Load(vllm_019.module_of(patched), workers, seed=workers)
    outcome = await load.run(seconds=1.5)
    assert outcome.wrong == []
    kinds = {"encoded", "decoded", "failed", "cancelled", "rendered", "encoded on the event loop"}
    assert {kind for kind, count in outcome.counts.items() if count > 5} == kinds


async def test_the_load_finds_a_shared_tokenizer(patched: Path) -> None:
    """What the copies are for: with one tokenizer for two threads the same load fails."""
    load = stress.Load(vllm_019.module_of(patched), 2, seed=3)
    idle = load.tokenizer._idle_tokenizers
    shared = idle.get_nowait()
    idle.get_nowait()
    for _ in range(2):
        idle.put_nowait(shared)
    try:
        outcome = await load.run(seconds=3)
    except RuntimeError as error:
        assert "borrowed" in str(error)
    else:
        assert outcome.wrong != []
    finally:
        load.pool.shutdown()
