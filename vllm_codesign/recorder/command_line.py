"""A command line as it may be written to a file: what it uses stays, what is secret does not.

A flag's name says whether its value is one, whole word by whole word: `--hf-token` and
`--api_key`, but not `--max-num-batched-tokens` or `--long-prefill-token-threshold`, which count
tokens of text. Inside a value a secret is told by the name that stands before it: a key of JSON,
a parameter of a URL, the name of a variable. What a URL has before its host is one by its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

HIDDEN = "..."
_SECRETS = {"key", "keys", "apikey", "token", "secret", "password", "passwd", "auth"}
_SECRETS |= {"header", "headers", "credential", "credentials", "authorization", "cookie"}
_SECRETS |= {"passphrase", "pwd", "bearer", "apitoken", "hftoken", "accesskey", "accesstoken"}
_COUNTED = {"token", "header", "headers"}
"""Secret alone, but not beside a word that counts or numbers them."""
_BEFORE_COUNTED = {"num", "number", "max", "min", "per", "count", "size", "budget", "total"}
# No `id` before them: an `id_token` is what somebody signs in with.
_AFTER_COUNTED = _BEFORE_COUNTED | {"threshold", "thresholds", "counts", "budgets", "adaptive"}
_AFTER_COUNTED |= {"id", "ids", "sizes", "len", "length", "lengths", "limit", "index", "indices"}
_PLAIN = {"allow-credentials", "allowed-headers", "enable-request-id-headers"}
"""Of vLLM's HTTP server: names of headers, and switches."""
_ABBREVIATED = ("--api-key", "--hf-token", "--ssl-keyfile-password")
"""argparse takes the beginning of a flag for the flag, where no other begins so."""
_LEAST_BEGUN = len("--api-")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_JSON_KEY = re.compile(r'"([^"]+)"\s*:')
_USERINFO = re.compile(r"(?<=://)([^/\s]+)(?=@)")
_PARAMETER = re.compile(r"(?<=[?&])([^=&#\s]+)=([^&#\s]+)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=(.+)", re.DOTALL)


def without_secrets(words: Sequence[str]) -> list[str]:
    """The words with `...` for what is secret: `--api-key X` loses its X."""
    return [shown for shown, _ in _taken_apart(words)]


def secrets_in(words: Sequence[str]) -> tuple[str, ...]:
    """What `without_secrets` leaves out, each once: whoever writes about it may have to know."""
    found = (secret for _, secrets in _taken_apart(words) for secret in secrets)
    return tuple(dict.fromkeys(secret for secret in found if secret))


def without_userinfo(text: str) -> str:
    """A text without what its URLs have before their host, or as a secret parameter."""
    return _PARAMETER.sub(_hidden_parameter, _USERINFO.sub(HIDDEN, text))


def _taken_apart(words: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each word as it may be shown, and the secrets that it has."""
    hide = False
    for word in words:
        if hide and not word.startswith("-"):
            yield HIDDEN, (word,)
            continue
        flag, _, value = word.partition("=") if word.startswith("-") else ("", "", word)
        secret = _is_secret_flag(flag)
        hide = secret and not value
        if value and secret:
            yield f"{flag}={HIDDEN}", (value,)
        elif any(map(_is_secret, _JSON_KEY.findall(value))):
            yield f"{flag}={HIDDEN}" if flag else HIDDEN, tuple(_in_json(value))
        elif (found := _VARIABLE.fullmatch(value)) is not None and _is_secret(found[1]):
            yield f"{flag}={found[1]}={HIDDEN}" if flag else f"{found[1]}={HIDDEN}", (found[2],)
        else:
            yield without_userinfo(word), tuple(_in_urls(value))


def _is_secret_flag(flag: str) -> bool:
    if _is_secret(flag):
        return True
    begun = flag.replace("_", "-")
    # A flag of its own, the path of a file, though another begins so.
    if len(begun) < _LEAST_BEGUN or "--ssl-keyfile".startswith(begun):
        return False
    return any(whole.startswith(begun) for whole in _ABBREVIATED)


def _is_secret(name: str) -> bool:
    if name.lower().replace("_", "-").lstrip("-").removeprefix("no-") in _PLAIN:
        return False
    words = ["", *(word.lower() for word in _WORDS.findall(name)), ""]
    return any(
        word in _SECRETS
        and not (word in _COUNTED and (before in _BEFORE_COUNTED or after in _AFTER_COUNTED))
        for before, word, after in zip(words, words[1:], words[2:], strict=False)
    )


def _hidden_parameter(found: re.Match[str]) -> str:
    return f"{found[1]}={HIDDEN}" if _is_secret(found[1]) else found[0]


def _in_urls(value: str) -> Iterator[str]:
    """A user without a password may be a token; one with a password is none."""
    parts = [found.partition(":")[2] or found for found in _USERINFO.findall(value)]
    parts += [secret for name, secret in _PARAMETER.findall(value) if _is_secret(name)]
    for part in parts:
        yield part
        yield unquote(part)


def _in_json(value: str) -> Iterator[str]:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        yield value  # no JSON after all, and hidden whole
        return
    yield from _below(document, secret=False)


def _below(node: Any, secret: bool) -> Iterator[str]:
    """Texts and numbers under a key that names a secret, however deep, and those in URLs."""
    if isinstance(node, dict):
        for key, inside in node.items():
            yield from _below(inside, secret or _is_secret(str(key)))
    elif isinstance(node, list):
        for inside in node:
            yield from _below(inside, secret)
    elif isinstance(node, str):
        if secret:
            yield node
        yield from _in_urls(node)
    elif secret and isinstance(node, int | float) and not isinstance(node, bool):
        yield str(node)
