"""The figures that `codesign view` shows, made in a process of their own.

    python -m vllm_codesign.report.fragment SERVER_PID CAPTURE [RESULTS]

Made of a large capture they take minutes of Python: beside the server, not in it. The process has a
session of its own, so a Ctrl-C in the terminal is the server's alone, which then ends it. A server
that is killed cannot: the process looks for it every second and does not outlive it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
import time
from pathlib import Path

from vllm_codesign.analysis.overview import overview
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.report.environment import environment
from vllm_codesign.report.page import figures
from vllm_codesign.store.reader import spill_folder


class Stopped(Exception):
    """They were not made to the end."""


class Maker:
    """Makes the figures of one capture, once at a time."""

    def __init__(self, capture: Path, results: Path | None) -> None:
        self._arguments = [str(capture)] if results is None else [str(capture), str(results)]
        self._process: asyncio.subprocess.Process | None = None
        self._over = False

    async def make(self) -> str:
        """A piece of HTML, which may be the line that says what is wrong with the capture.

        Raises `Stopped` where the process came to an untimely end.
        """
        if self._over:
            raise Stopped("the server is ending")
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "vllm_codesign.report.fragment", str(os.getpid()), *self._arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        if self._over:  # while it was started
            process.kill()
        try:
            made, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if process.returncode:
                shutil.rmtree(spill_folder(process.pid), ignore_errors=True)
        if process.returncode:
            raise Stopped(f"the process that makes them ended with {process.returncode}")
        return made.decode()

    def end(self) -> None:
        """Nothing is made any more; what is being made is given up."""
        self._over = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


def fragment(capture: Path, results: Path | None) -> str:
    """What `/figures` answers."""
    try:
        view = overview(capture, results)
    except CodesignError as error:
        return environment().get_template("failed.html.j2").render(cause=str(error))
    return environment().get_template("fragment.html.j2").render(**figures(view))


def _end_with(server: int) -> None:
    while os.getppid() == server:
        time.sleep(1)
    shutil.rmtree(spill_folder(os.getpid()), ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    paths = [Path(argument) for argument in sys.argv[2:]]
    sys.stdout.buffer.write(fragment(paths[0], paths[1] if len(paths) > 1 else None).encode())
