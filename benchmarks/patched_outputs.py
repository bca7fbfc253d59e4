"""Whether servers of several arms say the same, token for token.

    python benchmarks/patched_outputs.py --arms docs/patched_arms.toml

Starts each arm's server once and sends it the same long chats at temperature 0: all at once, so
that tokenizer threads work side by side, then one by one. Prompt tokens must be equal in both.
Answers are compared where they are asked for one by one: in a batch vLLM's own arithmetic depends
on which requests share a step. How many answers of the burst differ is printed, and how many differ
between the first arm's own two ways of asking. Exits with 1 where tokens differ that must not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Run as a file, Python looks for modules in this folder only, and not beside it.
sys.path[0] = str(Path(__file__).parents[1])

import aiohttp  # noqa: E402

from vllm_codesign.bench import arms_file  # noqa: E402
from vllm_codesign.bench.server import VllmServer, say  # noqa: E402
from vllm_codesign.model.bench import Arm  # noqa: E402

ROOT = Path(__file__).parents[1]
FLAGS = ("--enforce-eager", "--max-model-len", "16384", "--served-model-name", "m")
MAX_TOKENS = 32
_TIMEOUT = aiohttp.ClientTimeout(total=300)


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids of a prompt, as the server made them, and of its answer."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """What one server answered to the same chats, asked all at once and one by one."""

    at_once: list[Answer]
    singly: list[Answer]


def chats(count: int, words: int) -> list[str]:
    """Long texts, each another one from its first word on."""
    return [
        " ".join(
            f"{number} tool {word % 97} returned {word * number % 1009}" for word in range(words)
        )
        for number in range(1, count + 1)
    ]


async def ask(session: aiohttp.ClientSession, url: str, text: str) -> Answer:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "return_token_ids": True,
    }
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        answer: dict[str, Any] = await response.json()
        if response.status != 200:
            raise SystemExit(f"{url} answers {response.status}: {answer}")
        return Answer(tuple(answer["prompt_token_ids"]), tuple(answer["choices"][0]["token_ids"]))


async def all_of(url: str, texts: list[str]) -> Said:
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        at_once = await asyncio.gather(*(ask(session, url, text) for text in texts))
        singly = [await ask(session, url, text) for text in texts]
    return Said(list(at_once), singly)


def asked(arm: Arm, model: Path, out: Path, texts: list[str]) -> Said:
    server = VllmServer(
        model,
        flags=[*FLAGS, *arm.flags],
        env={"VLLM_PLUGINS": "codesign", "CODESIGN_STORE": "", **arm.env},
        python=arm.python or sys.executable,
        log_path=out / f"{arm.name}.log",
        progress=say,
    )
    with server:
        return asyncio.run(all_of(server.url, texts))


def differing(ours: list[Answer], theirs: list[Answer], what: str) -> int:
    return sum(getattr(a, what) != getattr(b, what) for a, b in zip(ours, theirs, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/models/tiny")
    parser.add_argument("--out", type=Path, default=ROOT / "out/patched_outputs")
    parser.add_argument("--chats", type=int, default=16)
    parser.add_argument("--words", type=int, default=900, help="of five each, in a chat")
    options = parser.parse_args()
    texts = chats(options.chats, options.words)
    arms = arms_file.read_file(options.arms)
    said = {arm.name: asked(arm, options.model, options.out, texts) for arm in arms}

    base = said[arms[0].name]
    tokens = sum(len(each.prompt) for each in base.singly)
    print(f"{len(texts)} chats, {tokens:,} prompt tokens, {MAX_TOKENS} tokens of answer at most")
    print(
        f"{arms[0].name}, all at once against one by one: "
        f"{differing(base.at_once, base.singly, 'tokens')} answers differ"
    )
    wrong = differing(base.at_once, base.singly, "prompt")
    for arm in arms[1:]:
        other = said[arm.name]
        prompts = differing(other.at_once, base.singly, "prompt")
        prompts += differing(other.singly, base.singly, "prompt")
        answers = differing(other.singly, base.singly, "tokens")
        burst = differing(other.at_once, base.at_once, "tokens")
        print(
            f"{arm.name} against {arms[0].name}: {prompts} prompts and {answers} answers differ; "
            f"of those asked all at once {burst}"
        )
        wrong += prompts + answers
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
