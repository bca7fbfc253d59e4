"""Queries and inserts over ClickHouse's HTTP interface, with the standard library.

One POST each: the answers are small and come as Arrow, which pyarrow reads with every type whole;
an insert is a file's bytes. A client library would add a dependency and give nothing here.
Parameters go beside the query and are bound by the server, a table of the caller's goes along as a
file of the same form (ClickHouse's "external data").
"""

from __future__ import annotations

import http.client
import re
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import pyarrow as pa

from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store.clickhouse.target import Target

Rows = list[dict[str, Any]]
_TIMEOUT_S = 300.0
_CODE = re.compile(r"Code: (\d+)\.")


class ClickHouseError(CodesignError):
    """The server refused; `code` is ClickHouse's number, 0 where it gave none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class External:
    """A small table sent along with a query."""

    name: str
    columns: Mapping[str, str]
    rows: list[tuple[str | int, ...]]

    def tsv(self) -> bytes:
        """As ClickHouse's TabSeparated."""
        lines = ("\t".join(_escaped(str(value)) for value in row) for row in self.rows)
        return "".join(f"{line}\n" for line in lines).encode()


def _escaped(text: str) -> str:
    for raw, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(raw, escaped)
    return text


@dataclass(frozen=True, slots=True)
class Client:
    """Speaks to one target; a connection a call."""

    target: Target
    timeout_s: float = _TIMEOUT_S

    def query(
        self,
        query: str,
        parameters: Mapping[str, str | int] | None = None,
        external: External | None = None,
    ) -> Rows:
        """The rows of a SELECT, by column name.

        Raises `ClickHouseError` with one line that says what is wrong and what to do.
        """
        asked = {f"param_{name}": str(value) for name, value in (parameters or {}).items()}
        asked["default_format"] = "ArrowStream"
        if external is None:
            return _rows(self._post(asked, query.encode(), {}))
        columns = ", ".join(f"{name} {kind}" for name, kind in external.columns.items())
        asked[f"{external.name}_structure"] = columns
        asked[f"{external.name}_format"] = "TabSeparated"
        boundary = secrets.token_hex(16)
        body = b"".join(
            (
                _part(boundary, 'name="query"', query.encode()),
                _part(
                    boundary,
                    f'name="{external.name}"; filename="{external.name}.tsv"',
                    external.tsv(),
                ),
                f"--{boundary}--\r\n".encode(),
            )
        )
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return _rows(self._post(asked, body, kind))

    def execute(self, statement: str) -> None:
        """A statement without an answer."""
        self._post({}, statement.encode(), {})

    def insert_parquet(self, statement: str, file: Path, token: str) -> None:
        """The rows of `file` by `INSERT ... FORMAT Parquet`; a token seen before inserts nothing
        where the table remembers them.
        """
        asked = {"query": statement, "insert_deduplication_token": token}
        with file.open("rb") as body:
            self._post(asked, body, {"Content-Length": str(file.stat().st_size)})

    def _post(
        self, asked: Mapping[str, str], body: bytes | IO[bytes], headers: Mapping[str, str]
    ) -> bytes:
        target = self.target
        path = "/?" + urlencode({"database": target.database, **asked})
        identity = {"X-ClickHouse-User": target.user, "X-ClickHouse-Key": target.password}
        connection = self._connection()
        try:
            connection.request("POST", path, body=body, headers={**headers, **identity})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ClickHouseError(_unreachable(target, error)) from error
        finally:
            connection.close()
        if response.status != 200:
            text = answer.decode("utf-8", "replace")
            code = _code(response.headers.get("X-ClickHouse-Exception-Code"), text)
            raise ClickHouseError(_refused(target, response.status, code, text), code)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        target = self.target
        if target.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                target.host, target.port, timeout=self.timeout_s, context=context
            )
        return http.client.HTTPConnection(target.host, target.port, timeout=self.timeout_s)


def _part(boundary: str, disposition: str, content: bytes) -> bytes:
    head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
    return head.encode() + content + b"\r\n"


def _rows(answer: bytes) -> Rows:
    if not answer:
        return []
    try:
        table = pa.ipc.open_stream(answer).read_all()
    except pa.ArrowException:
        # An error after the first rows had left is appended to them.
        text = answer[-2_000:].decode("utf-8", "replace")
        found = text[text.find("Code: ") :] if "Code: " in text else "the answer is not Arrow"
        raise ClickHouseError(
            f"ClickHouse broke off: {_first_line(found)}", _code(None, text)
        ) from None
    return [{name: _text(value) for name, value in row.items()} for row in table.to_pylist()]


def _text(value: Any) -> Any:
    # Older servers send strings as bytes.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _code(header: str | None, text: str) -> int:
    if header is not None and header.isdecimal():
        return int(header)
    found = _CODE.search(text)
    return int(found.group(1)) if found else 0


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "no reason given"


def _unreachable(target: Target, error: Exception) -> str:
    address = f"{target.scheme}://{target.host}:{target.port}"
    if isinstance(error, TimeoutError):
        return f"ClickHouse at {address} did not answer in time: name a shorter range with --since"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with {address}: {error.reason}; http:// and its port 8123, perhaps"
    cause = (error.strerror or str(error)) if isinstance(error, OSError) else repr(error)
    return (
        f"cannot reach ClickHouse at {address}: {cause}; name its HTTP port "
        "(8123 by default, not the native 9000)"
    )


def _refused(target: Target, status: int, code: int, text: str) -> str:
    whole = f"{target.database}.{target.table}"
    known = {
        516: f"ClickHouse does not let {target.user!r} in: name the user in the URL and set "
        "CLICKHOUSE_PASSWORD",
        497: f"{target.user!r} may not do this on {whole}: {_first_line(text)}",
        60: f"no table {whole} there: name it with ?table=, or make it with "
        "`codesign store push --create`",
        81: f"no database {target.database!r} there: name it in the URL's path, or make it with "
        "`codesign store push --create`",
        241: "ClickHouse ran out of memory for this query: name a shorter range with --since",
        159: "ClickHouse gave up for lack of time: name a shorter range with --since",
        164: f"{target.user!r} may only read there: {_first_line(text)}",
    }
    old = "; this needs ClickHouse 24.3 or newer" if code in (46, 62, 47) else ""
    said = f"ClickHouse at {target} answered {status}: {_first_line(text)}{old}"
    # 193 and 194 are what older servers say to a wrong password, others a bare 401.
    wrong_password = code in (193, 194) or (code == 0 and status == 401)
    return known.get(516 if wrong_password else code, said)
