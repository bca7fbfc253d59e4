"""One request at a time, each in a trace of its own, with the standard library's client."""

from __future__ import annotations

import json
import random
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

_rng = random.Random()


@dataclass
class Answer:
    """What came back; `text` is the body, `body` the same where it is JSON."""

    trace_id: str
    parent_id: str
    status: int
    text: str
    body: dict[str, Any] = field(default_factory=dict)


def post(url: str, path: str, body: dict[str, Any], flags: int = 1) -> Answer:
    """Send one request under a new `traceparent` whose trace flags are `flags`."""
    trace_id, parent_id = f"{_rng.getrandbits(128) | 1:032x}", f"{_rng.getrandbits(64) | 1:016x}"
    status, text = exchange(
        url + path, body, {"traceparent": f"00-{trace_id}-{parent_id}-{flags:02x}"}
    )
    parsed = json.loads(text) if text.startswith("{") else {}
    return Answer(trace_id, parent_id, status, text, parsed)


def exchange(url: str, body: dict[str, Any] | None, headers: dict[str, str]) -> tuple[int, str]:
    """POST `body`, or GET where there is none; status and text, of errors too."""
    request = urllib.request.Request(
        url,
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
