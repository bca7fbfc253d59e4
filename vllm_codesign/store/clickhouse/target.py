"""What a user names: `clickhouse:http://USER@HOST:8123/DATABASE?table=otel_traces`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from vllm_codesign import settings
from vllm_codesign.model.errors import CodesignError

PREFIX = "clickhouse:"
EXAMPLE = "clickhouse:http://default@localhost:8123/otel"
_PORTS = {"http": 8123, "https": 8443}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Target:
    """One table of spans on one server; the password is in no text of it."""

    scheme: str
    host: str
    port: int
    user: str
    database: str
    table: str
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/{self.database}.{self.table}"


def parse(text: str, password: str | None = None) -> Target:
    """The target that `text` names.

    A password comes from the URL or else from CLICKHOUSE_PASSWORD. Raises `CodesignError` where
    the text is no such URL; the message does not repeat it, for there may be a password in it.
    """
    url = text.removeprefix(PREFIX)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # The error would show a part of the password.
        raise CodesignError(
            f"not a ClickHouse URL; want {EXAMPLE}, with %XX for what is no letter or digit in a "
            "password"
        ) from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise CodesignError(f"not a ClickHouse URL: want http or https and a host, as {EXAMPLE}")
    asked = parse_qs(parts.query, keep_blank_values=True)
    if unknown := sorted(set(asked) - {"table"}):
        raise CodesignError(f"a ClickHouse URL has no {unknown[0]!r}; want {EXAMPLE}?table=NAME")
    names = {
        "database": unquote(parts.path.strip("/")) or "default",
        "table": asked.get("table", ["otel_traces"])[-1],
    }
    for what, name in names.items():
        if not _NAME.fullmatch(name):
            raise CodesignError(f"{name!r} is no name of a ClickHouse {what}; want {EXAMPLE}")
    if password is None:
        password = settings.clickhouse_password()
    return Target(
        parts.scheme,
        parts.hostname,
        port or _PORTS[parts.scheme],
        unquote(parts.username or "default"),
        names["database"],
        names["table"],
        unquote(parts.password) if parts.password is not None else password,
    )
