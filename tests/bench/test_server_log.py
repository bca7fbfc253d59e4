"""The log of a server that was given a secret does not have it, however it comes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vllm_codesign.bench.server_log import ServerLog


def written(log: ServerLog, *blocks: bytes) -> bytes:
    with log.sink() as out:
        for block in blocks:
            os.write(out, block)
    log.settle()
    return log.path.read_bytes()


@pytest.mark.parametrize("secrets", [(), ("s3cret",)])
def test_what_is_printed_is_in_the_file(tmp_path: Path, secrets: tuple[str, ...]) -> None:
    log = ServerLog(tmp_path / "new" / "server.log", secrets)
    assert written(log, b"INFO up\n", b"\x1b[1mValueError: bad\xff\x1b[0m\n", b"at 50 %\r") == (
        b"INFO up\n\x1b[1mValueError: bad\xff\x1b[0m\nat 50 %\r"
    )
    assert log.last_error() == "ValueError: bad\ufffd"
    assert log.last_line() == "at 50 %"
    assert written(log, b"anew") == b"anew"


@pytest.mark.parametrize("size", range(1, 13))
def test_a_secret_is_not_however_it_is_cut(tmp_path: Path, size: int) -> None:
    text = b"{'api_key': ['s3cret', 's3s3cret-2']} s3cre s3cret"
    blocks = [text[i : i + size] for i in range(0, len(text), size)]
    log = ServerLog(tmp_path / "server.log", ("s3cret", "s3cret-2"))
    # Of two that begin alike the shorter may be seen first: what is left of the longer is no key.
    found = written(log, *blocks)
    assert b"s3cret" not in found
    assert found.startswith(b"{'api_key': ['...', 's3...")
    assert found.endswith(b"} s3cre ...")


def test_as_json_and_python_write_it(tmp_path: Path) -> None:
    secret = 'a"b\\c\u00e9'
    log = ServerLog(tmp_path / "server.log", (secret, "abc"))
    text = f'{secret} "a\\"b\\\\c\\u00e9" {secret!r} abc'
    assert written(log, text.encode()) == b"... \"...\" '...' abc", (
        "three letters are in many words"
    )


def test_a_full_disk_does_not_stop_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ServerLog(tmp_path / "server.log", ("s3cret",))
    write = os.write

    def full(file: int, text: bytes) -> int:
        if text.startswith(b"to the file"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, text)

    with log.sink() as out:
        monkeypatch.setattr(os, "write", full)
        write(out, b"to the file")
        # More than the pipe holds.
        write(out, b"x" * 1_000_000)
    log.settle()
    assert log.problem() == f"{log.path} is not whole: No space left on device"
    assert log.problem() is None
