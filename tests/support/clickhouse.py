"""ClickHouse in this process (`chdb`), and a stand-in for its HTTP interface on top of it.

chdb is ClickHouse's own code without a server. The stand-in speaks as much of the HTTP interface as
is used here: users, databases, bound parameters, external tables in a form, inserts of Parquet with
a deduplication token, errors with their code. What it answers is what chdb answered.
"""

from __future__ import annotations

import email.parser
import email.policy
import re
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from vllm_codesign.analysis.sql import query as queries
from vllm_codesign.analysis.sql.engines import ClientRows, Rows
from vllm_codesign.analysis.sql.query import CLIENTS, CLIENTS_COLUMNS, Parameters
from vllm_codesign.store import schema
from vllm_codesign.store.clickhouse.client import External
from vllm_codesign.store.clickhouse.table import ddl

_COLUMNS = ", ".join(f'"{name}"' for name in schema.TRACES.names)
_INSERT = re.compile(r"(INSERT INTO .*\)) FORMAT Parquet", re.DOTALL)


class Chdb:
    """One session; chdb allows one at a time in a process."""

    def __init__(self) -> None:
        from chdb import session

        self._session = session.Session()

    def close(self) -> None:
        # The next session of this process would find it.
        self.run("DROP DATABASE IF EXISTS otel")
        self._session.close()

    def run(self, query: str, kind: str = "ArrowStream", **parameters: str | int) -> bytes:
        given = {name: str(value) for name, value in parameters.items()}
        return bytes(self._session.query(query, kind, params=given).bytes())

    def rows(self, query: str, **parameters: str | int) -> Rows:
        answer = self.run(query, **parameters)
        return pa.ipc.open_stream(answer).read_all().to_pylist() if answer else []

    def hold(self, external: External) -> None:
        """A table of the caller's, until the next one of its name."""
        columns = ", ".join(f"{name} {kind}" for name, kind in external.columns.items())
        self.run(f"CREATE OR REPLACE TABLE {external.name} ({columns}) ENGINE = Memory")
        if external.rows:
            with tempfile.NamedTemporaryFile(suffix=".tsv") as file:
                Path(file.name).write_bytes(external.tsv())
                self.run(f"INSERT INTO {external.name} SELECT * FROM file('{file.name}', TSV)")


@dataclass(frozen=True, slots=True)
class InChdb:
    """An engine for the queries, as `InClickHouse` without a server between."""

    chdb: Chdb

    def rows(self, name: str, parameters: Parameters) -> Rows:
        text = queries.text(name)
        given = {**parameters.bound(), "table": queries.TABLE}
        wanted = queries.parameters_of(text)
        return self.chdb.rows(text, **{k: v for k, v in given.items() if k in wanted})


def in_chdb(chdb: Chdb, traces: Path, clients: ClientRows) -> InChdb:
    """The segments in `traces` loaded into the table that `--create` makes."""
    for statement in ("CREATE DATABASE IF NOT EXISTS otel", "USE otel"):
        chdb.run(statement)
    chdb.run(f"DROP TABLE IF EXISTS {queries.TABLE}")
    # The spans are of 2025: a table that keeps a month would be empty.
    chdb.run(ddl(queries.TABLE, days=10_000))
    chdb.run(
        f"INSERT INTO {queries.TABLE} ({_COLUMNS}) "
        f"SELECT {_COLUMNS} FROM file('{traces}/*.parquet', Parquet)"
    )
    chdb.hold(External(CLIENTS, CLIENTS_COLUMNS, clients))
    return InChdb(chdb)


@dataclass
class Seen:
    """What came in: the query, and its length with all that came with it."""

    query: str
    parameters: dict[str, str]
    body: int


@dataclass
class HttpClickHouse:
    """The HTTP interface on loopback, while the `with` lasts; one request at a time."""

    chdb: Chdb
    user: str = "default"
    password: str = ""
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> HttpClickHouse:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, code, answer = stand_in._answer(self.path, dict(self.headers), body)
                self.send_response(status)
                if code:
                    self.send_header("X-ClickHouse-Exception-Code", str(code))
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, database: str = "otel", table: str = "otel_traces", user: str = "default") -> str:
        port = self._server.server_port
        return f"clickhouse:http://{user}@127.0.0.1:{port}/{database}?table={table}"

    def _answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, int, bytes]:
        asked = {
            name: values[-1]
            for name, values in parse_qs(urlsplit(path).query, keep_blank_values=True).items()
        }
        identity = headers.get("X-ClickHouse-User"), headers.get("X-ClickHouse-Key", "")
        if identity != (self.user, self.password):
            text = "Code: 516. DB::Exception: default: Authentication failed: password is incorrect"
            return 403, 516, text.encode()
        files: dict[str, bytes] = {}
        if headers.get("Content-Type", "").startswith("multipart/form-data"):
            fields, files = _form(headers["Content-Type"], body)
            asked |= fields
            query = asked.get("query", "")
        elif "query" in asked:
            query = asked["query"]
        else:
            query = body.decode()
        parameters = {
            k.removeprefix("param_"): v for k, v in asked.items() if k.startswith("param_")
        }
        self.seen.append(Seen(query, parameters, len(body)))
        try:
            return 200, 0, self._run(query, asked, parameters, files, body)
        except RuntimeError as error:
            found = re.search(r"Code: (\d+)\.", str(error))
            code = int(found.group(1)) if found else 0
            return 404 if code in (60, 81) else 500, code, str(error).encode()

    def _run(
        self,
        query: str,
        asked: dict[str, str],
        parameters: dict[str, str],
        files: dict[str, bytes],
        body: bytes,
    ) -> bytes:
        self.chdb.run(f"USE `{asked['database']}`")
        for name, content in files.items():
            self.chdb.run(f"DROP TABLE IF EXISTS {name}")
            self.chdb.run(f"CREATE TABLE {name} ({asked[name + '_structure']}) ENGINE = Memory")
            if content:
                kind = asked[name + "_format"]
                self._from_file(f"INSERT INTO {name} SELECT * FROM", kind, content)
        if insert := _INSERT.fullmatch(query):
            token = asked["insert_deduplication_token"]
            statement = insert.group(1)
            columns = statement[statement.index("(") + 1 : -1]
            self._from_file(f"{statement} SELECT {columns} FROM", "Parquet", body, token)
            return b""
        return self.chdb.run(query, asked.get("default_format", "TabSeparated"), **parameters)

    def _from_file(self, statement: str, kind: str, content: bytes, token: str = "") -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            settings = f" SETTINGS insert_deduplication_token = '{token}'" if token else ""
            self.chdb.run(f"{statement} file('{file.name}', {kind}){settings}")


def _form(kind: str, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if part.get_filename() is not None:
            files[str(name)] = content
        else:
            fields[str(name)] = content.decode()
    return fields, files
