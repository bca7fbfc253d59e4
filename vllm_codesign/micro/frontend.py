"""The text's way in and out: encode and decode, request JSON, and the chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import repeat
from typing import Any

from vllm_codesign.micro.case import Case, Ready, same
from vllm_codesign.micro.texts import Prompts
from vllm_codesign.micro.tokenizer import Tokenizer

CHUNKS = 200
"""Of a stream, in one timing: one alone takes hardly longer than reading the clock."""
_PIECE = " token"
_MODEL = "the model's name"


def encode(tokenizer: Tokenizer, prompts: Prompts) -> Iterator[Case]:
    """Text to tokens, as the renderer's thread does it."""
    for size in prompts.sizes:

        def prepare(size: int = size) -> Ready:
            prompt = prompts.at(size)
            return Ready(
                lambda: tokenizer.encode(prompt.text),
                lambda found: _tells_the_text(tokenizer, found, prompt.text),
            )

        yield Case("encode", "frontend", prepare, tokens=size)


def _tells_the_text(tokenizer: Tokenizer, ids: list[int], text: str) -> str | None:
    """Some tokenizers lose a space or a case: then what they give back means the same tokens."""
    back = tokenizer.decode(ids)
    if back == text or tokenizer.encode(back) == ids:
        return None
    return "its tokens do not decode to the text"


def decode(tokenizer: Tokenizer, prompts: Prompts) -> Iterator[Case]:
    """Tokens to text, all at once."""
    for size in prompts.sizes:

        def prepare(size: int = size) -> Ready:
            prompt = prompts.at(size)

            def tells_the_text(found: str) -> str | None:
                if found == prompt.text or tokenizer.encode(found) == prompt.ids:
                    return None
                return "the text is not that of its tokens"

            return Ready(lambda: tokenizer.decode(prompt.ids), tells_the_text)

        yield Case("decode", "frontend", prepare, tokens=size)


def request_json(prompts: Prompts) -> Iterator[Case]:
    """A chat request as its client writes it and as the server reads it."""
    for size in prompts.sizes:

        def writes(size: int = size) -> Ready:
            body = _request(prompts.at(size).text)
            return Ready(
                lambda: json.dumps(body).encode(),
                lambda found: same(body, "the request")(json.loads(found)),
            )

        def reads(size: int = size) -> Ready:
            body = _request(prompts.at(size).text)
            sent = json.dumps(body).encode()
            return Ready(lambda: json.loads(sent), same(body, "the request"))

        yield Case("json_encode", "frontend", writes, tokens=size)
        yield Case("json_parse", "frontend", reads, tokens=size)


def request_validation(prompts: Prompts) -> Iterator[Case]:
    """vLLM's own model of a chat request, made of the parsed JSON."""
    model = _protocol().ChatCompletionRequest
    for size in prompts.sizes:

        def prepare(size: int = size) -> Ready:
            body = _request(prompts.at(size).text)
            return Ready(
                lambda: model.model_validate(body),
                lambda found: same(body["messages"], "the message")(_plain(found.messages)),
            )

        yield Case("request_validate", "frontend", prepare, tokens=size)


def _request(text: str) -> dict[str, Any]:
    return {
        "model": _MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 100,
        "temperature": 0.0,
        "stream": True,
    }


def _plain(messages: list[Any]) -> list[dict[str, Any]]:
    dumped = [m if isinstance(m, dict) else m.model_dump(exclude_unset=True) for m in messages]
    return [{"role": m["role"], "content": m["content"]} for m in dumped]


def sse_encode() -> Iterator[Case]:
    """What vLLM makes of one token of a stream: its response model, as JSON, as an event."""
    protocol = _protocol()

    def one() -> str:
        choice = protocol.ChatCompletionResponseStreamChoice(
            index=0,
            delta=protocol.DeltaMessage(content=_PIECE),
            logprobs=None,
            finish_reason=None,
        )
        chunk = protocol.ChatCompletionStreamResponse(
            id="chatcmpl-0123456789abcdef",
            object="chat.completion.chunk",
            created=1_700_000_000,
            choices=[choice],
            model=_MODEL,
        )
        return f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"

    yield Case(
        "sse_encode",
        "frontend",
        lambda: Ready(_many(one), lambda found: _says_the_piece(_parsed(found)), CHUNKS),
    )


def sse_parse() -> Iterator[Case]:
    """What a client makes of one event."""
    choice = {"index": 0, "delta": {"content": _PIECE}, "logprobs": None, "finish_reason": None}
    chunk = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": _MODEL,
        "choices": [choice],
    }
    event = f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"
    yield Case(
        "sse_parse",
        "frontend",
        lambda: Ready(_many(lambda: _parsed(event)), _says_the_piece, CHUNKS),
    )


def _many(one: Any) -> Any:
    def run() -> Any:
        for _ in repeat(None, CHUNKS - 1):
            one()
        return one()

    return run


def _parsed(event: str) -> Any:
    return json.loads(event.removeprefix("data: "))


def _says_the_piece(chunk: Any) -> str | None:
    return same(_PIECE, "the chunk's content")(chunk["choices"][0]["delta"]["content"])


def _protocol() -> Any:
    """vLLM's models of requests and responses, where its version has them."""
    try:
        from vllm.entrypoints.openai.chat_completion import protocol as chat

        names = vars(chat)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[-1] != "chat_completion":
            raise
        from vllm.entrypoints.openai import protocol as older

        names = vars(older)
    return _Names(names)


class _Names:
    def __init__(self, names: dict[str, Any]) -> None:
        self.__dict__.update(names)
