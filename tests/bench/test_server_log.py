"""The log of a server that was given a secret does not have it, however it comes."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from vllm_codesign.bench.server_log import ServerLog


def whole(log: ServerLog) -> bytes:
    """The file when all is copied, however long that takes on a busy machine."""
    if log._copying is not None:
        log._copying.join(60)
        assert not log._copying.is_alive()
    return log.path.read_bytes()


def written(log: ServerLog, *blocks: bytes) -> bytes:
    with log.sink() as out:
        for block in blocks:
            os.write(out, block)
    return whole(log)


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
        write(out, b"x" * 3_000_000)
    whole(log)
    assert log.problem() == f"{log.path} is not whole: No space left on device"
    assert log.problem() is None


def test_a_file_that_cannot_be_opened_is_said_before_the_server_starts(tmp_path: Path) -> None:
    log = ServerLog(tmp_path, ("s3cret",))
    with pytest.raises(IsADirectoryError), log.sink():
        raise AssertionError("nothing may start")
    assert log._copying is None


def test_the_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ServerLog(tmp_path / "server.log", ("s3cret",))
    start, moved = threading.Thread.start, tmp_path / "moved.log"

    def later(thread: threading.Thread) -> None:
        log.path.rename(moved)
        log.path.mkdir()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", later)
    with log.sink() as out:
        os.write(out, b"with s3cret")
    assert log._copying is not None
    log._copying.join(60)
    assert moved.read_bytes() == b"with ..."
    assert log.problem() is None


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="Linux alone says how large one is")
def test_the_pipe_is_as_large_as_the_system_allows(tmp_path: Path) -> None:
    try:
        allowed = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    except OSError as error:
        pytest.skip(f"this system does not say how large a pipe may be ({error.strerror})")
    with ServerLog(tmp_path / "server.log", ("s3cret",)).sink() as out:
        # A user with many large pipes gets no more of them.
        size = fcntl.fcntl(out, fcntl.F_GETPIPE_SZ)
    assert size in (min(allowed, 1 << 20), 1 << 16, 1 << 13, 1 << 12)


def test_a_process_that_outlives_the_server_is_not_waited_for(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "server.log", ("s3cret",))
    with log.sink() as out:
        other = os.dup(out)
    try:
        log.settle()
        assert log._copying is not None
        assert log._copying.is_alive()
    finally:
        os.write(other, b"late")
        os.close(other)
    assert whole(log) == b"late"


def test_a_file_that_still_grows_is_waited_for(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "server.log", ("s3cret",))

    class Slow(threading.Thread):
        """Writes on while somebody waits, three times."""

        waits = 0

        def join(self, timeout: float | None = None) -> None:
            self.waits += 1
            log._written += self.waits <= 3

    ending = threading.Event()
    slow = Slow(target=ending.wait, daemon=True)
    slow.start()
    log._copying = slow
    log.settle()
    ending.set()
    assert slow.waits == 4, "three in which it grew, and one in which it did not"
