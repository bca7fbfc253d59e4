"""What a tokenizer copy of the patch costs: time and memory, by the size of the vocabulary.

.venv-0.19.0/bin/python -m tests.patches.copies
"""

from __future__ import annotations

import copy
import itertools
import os
import statistics
import time
from pathlib import Path
from typing import Any

SIZES = (32_000, 128_000)
COPIES = 4


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def tokenizer_of(entries: int) -> Any:
    """A byte-level BPE of that many entries: bytes, their pairs, and triples of them.

    Wrapped as vLLM wraps every Hugging Face tokenizer.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from vllm.tokenizers.hf import get_cached_tokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = list(itertools.product(alphabet, repeat=2))
    triples = (("".join(pair), byte) for pair in pairs for byte in alphabet)
    merges = list(itertools.islice(itertools.chain(pairs, triples), entries - len(alphabet)))
    vocabulary = alphabet + ["".join(merge) for merge in merges]
    model = models.BPE({token: i for i, token in enumerate(vocabulary)}, merges)
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return get_cached_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))


def main() -> None:
    for entries in SIZES:
        tokenizer = tokenizer_of(entries)
        cpu_ms, kept = [], []
        before = resident_mib()
        for _ in range(COPIES):
            began = time.process_time()
            kept.append(copy.deepcopy(tokenizer))
            cpu_ms.append((time.process_time() - began) * 1e3)
        each = (resident_mib() - before) / COPIES
        print(
            f"vocabulary of {len(tokenizer):,}: {statistics.median(cpu_ms):.0f} ms CPU"
            f" and {each:.0f} MiB a copy"
        )


if __name__ == "__main__":
    main()
