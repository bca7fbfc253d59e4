"""`--header`, wherever a command asks a server that may want credentials."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
"""A token of RFC 9110."""


def parse_headers(given: Iterable[str]) -> dict[str, str]:
    """Values by name; of one that comes twice the last. Raises UsageError, which shows none."""
    return dict(_header(text) for text in given)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    good = colon and _NAME.fullmatch(name.strip())
    if not good or not (text.isprintable() and text.isascii()):
        # Not shown: it may be a secret.
        raise click.UsageError("--header is not 'NAME: VALUE' in printable ASCII")
    return name.strip(), value.strip()
