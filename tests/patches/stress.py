"""The patched tokenizer under load: mixed options, cancellations, failures, other users.

    .venv-0.19.0/bin/python -m tests.patches.stress --minutes 10

64 clients ask at once, and every result must equal that of the same tokenizer used alone, one
prompt after the other. Meanwhile the pool renders templates with the original tokenizer, as
vLLM's does, and the event loop encodes with it, as vLLM's does for `bad_words`.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.patches import vllm_019

CLIENTS = 64
WORDS = ("the", "tokenizer", "of", "a", "server", "shared", "between", "threads", "same", "time")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"add_special_tokens": False},
    {"truncation": True},
    # As chat and completion requests have it, `max_length` by the tokens they ask for.
    {"truncation": True, "max_length": 2_000, "add_special_tokens": False},
    {"truncation": True, "max_length": 40},
    {"truncation": True, "max_length": 7},
)
# Both kinds stay out of batches: in a batch one bad prompt fails all, patched or not.
BAD: tuple[tuple[Any, dict[str, Any], type[Exception]], ...] = (
    ("bad", {"truncation": True, "max_length": -3}, OverflowError),
    (object(), {"truncation": True, "max_length": 40}, Exception),
)


@dataclass
class Outcome:
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    template_ms: list[float] = field(default_factory=list)
    """From handing a template to the pool to its result."""
    encode_ms: list[float] = field(default_factory=list)


def make_tokenizer() -> Any:
    """A fast tokenizer with a chat template and a limit, trained on the spot."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=4_000)
    made.chat_template = TEMPLATE
    return made


class Load:
    def __init__(self, module: ModuleType, workers: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.original = make_tokenizer()
        self.pool = ThreadPoolExecutor(workers)
        self.workers = workers
        self.tokenizer = module.AsyncMicrobatchTokenizer(
            self.original,
            executor=self.pool,
            tokenizers=[copy.deepcopy(self.original) for _ in range(workers)],
        )
        self.outcome = Outcome()
        alone = copy.deepcopy(self.original)
        sizes = [1, 3, 20, 200, 1_500]
        prompts = [
            " ".join(self.random.choices(WORDS, k=self.random.choice(sizes))) for _ in range(60)
        ]
        self.encodes = [(p, o, alone(p, **o).input_ids) for p in prompts for o in OPTIONS]
        self.decodes = [(ids, alone.decode(ids)) for _, _, ids in self.encodes[:40]]

    async def client(self, until: float) -> None:
        kinds = (self._encode, self._cancel, self._decode, self._fail)
        while time.monotonic() < until:
            (ask,) = self.random.choices(kinds, weights=(70, 15, 10, 5))
            try:
                await ask()
            except RuntimeError as failure:
                self.outcome.wrong.append(repr(failure))

    async def _encode(self) -> None:
        prompt, options, expected = self.random.choice(self.encodes)
        began = time.perf_counter()
        found = await self.tokenizer.encode(prompt, **options)
        self.outcome.encode_ms.append((time.perf_counter() - began) * 1e3)
        self._compare("encoded", found, expected)

    async def _decode(self) -> None:
        ids, expected = self.random.choice(self.decodes)
        self._compare("decoded", await self.tokenizer.decode(ids), expected)

    async def _fail(self) -> None:
        prompt, options, error = self.random.choice(BAD)
        try:
            await self.tokenizer.encode(prompt, **options)
        except error as failure:
            if "borrowed" in str(failure):
                raise
            self.outcome.counts["failed"] += 1
        else:
            self.outcome.wrong.append(f"{options} did not fail")

    async def _cancel(self) -> None:
        prompt, options, expected = self.random.choice(self.encodes)
        task = asyncio.ensure_future(self.tokenizer.encode(prompt, **options))
        await asyncio.sleep(self.random.random() * 0.02)
        if task.cancel():
            await asyncio.wait([task])
        if task.cancelled():
            self.outcome.counts["cancelled"] += 1
        else:
            self._compare("encoded", task.result(), expected)

    def _compare(self, kind: str, found: object, expected: object) -> None:
        self.outcome.counts[kind] += 1
        if found != expected:
            self.outcome.wrong.append(f"{kind} {str(found)[:60]} instead of {str(expected)[:60]}")

    async def templates(self, until: float) -> None:
        """What `make_async(safe_apply_chat_template)` does, one request at a time."""
        messages = [{"role": "user", "content": "hello"}] * 20
        expected = self.original.apply_chat_template(messages, tokenize=False)
        loop = asyncio.get_running_loop()
        while time.monotonic() < until:
            began = time.perf_counter()
            found = await loop.run_in_executor(
                self.pool, lambda: self.original.apply_chat_template(messages, tokenize=False)
            )
            self.outcome.template_ms.append((time.perf_counter() - began) * 1e3)
            self._compare("rendered", found, expected)
            await asyncio.sleep(0.005)

    async def event_loop(self, until: float) -> None:
        """The original tokenizer with and without truncation, which changes it inside."""
        expected = copy.deepcopy(self.original)("threads").input_ids
        while time.monotonic() < until:
            self.original("threads " * 9, truncation=True, max_length=3)
            self._compare("encoded on the event loop", self.original("threads").input_ids, expected)
            await asyncio.sleep(0.003)

    async def run(self, seconds: float) -> Outcome:
        until = time.monotonic() + seconds
        users = [self.client(until) for _ in range(CLIENTS)]
        await asyncio.gather(*users, self.templates(until), self.event_loop(until))
        # Jobs whose callers have left may still run.
        while self.tokenizer._idle_tokenizers.qsize() < self.workers:
            await asyncio.sleep(0.01)
        queued = [queue.qsize() for queue in self.tokenizer._queues.values()]
        if any(queued):
            self.outcome.wrong.append(f"left in the queues: {queued}")
        self.pool.shutdown()
        return self.outcome


def _milliseconds(values: list[float]) -> str:
    ordered = sorted(values)
    p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return f"median {p50:.1f} ms, p99 {p99:.1f} ms, longest {ordered[-1]:.1f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFF)
    arguments = parser.parse_args()
    installed = vllm_019.installed()
    if installed is None:
        print("vLLM 0.19.0 is not installed: make setup VERSION=0.19.0", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        vllm_019.copy_sources(installed, Path(folder))
        done = vllm_019.git("apply", "--include=vllm/*", vllm_019.PATCH, cwd=Path(folder))
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        module = vllm_019.module_of(Path(folder))
    print(f"{CLIENTS} clients, {arguments.workers} workers, seed {arguments.seed}", flush=True)

    async def run() -> Outcome:
        load = Load(module, arguments.workers, arguments.seed)
        return await load.run(arguments.minutes * 60)

    outcome = asyncio.run(run())
    for kind, count in sorted(outcome.counts.items()):
        print(f"{kind:26} {count:9,}")
    print(f"encodes:   {_milliseconds(outcome.encode_ms)}")
    print(f"templates: {_milliseconds(outcome.template_ms)}")
    print(f"wrong results: {len(outcome.wrong)}")
    for line in outcome.wrong[:20]:
        print(line)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
