"""Stands in for `python -m vllm.entrypoints.cli.main serve ...` as a process.

Written into a script by `write`, which a test passes as the server's interpreter. The
environment says how it behaves: FAKE_VLLM is a comma-separated list of `die`, `deaf`
(ignores SIGINT and SIGTERM), `slow` (never healthy), `child` (starts a process of its own
that is deaf), `capture` (makes a capture in CODESIGN_STORE), `args` (prints its arguments,
as vLLM does, and how many letters its key has).

`write_lmcache` puts a stand-in for `lmcache server` beside it; FAKE_LMCACHE may say `die` (while
starting) or `short` (at the first question after it was found healthy). Asked which device it
uses, vLLM says FAKE_DEVICE, `cpu` by default.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from aiohttp import web

from tests.support.fake_vllm import FakeServer
from vllm_codesign.store import capture

_DEAF_CHILD = "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)"


def write(folder: Path) -> Path:
    """An executable that runs this module whatever its arguments are."""
    return _script(folder / "fake-python", "main")


def write_lmcache(folder: Path) -> Path:
    """`lmcache` in the folder of the fake interpreter."""
    return _script(folder / "lmcache", "lmcache")


def _script(path: Path, function: str) -> Path:
    root = Path(__file__).parents[2]
    path.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        f"from tests.support.fake_vllm_command import {function}\n{function}(sys.argv)\n"
    )
    path.chmod(0o755)
    return path


def lmcache(arguments: list[str]) -> None:
    behaviour = os.environ.get("FAKE_LMCACHE", "").split(",")
    print(" ".join(arguments), flush=True)
    if "die" in behaviour:
        print("RuntimeError: not enough memory")
        sys.exit(3)

    async def healthy(_request: web.Request) -> web.Response:
        if "short" in behaviour:
            asyncio.get_running_loop().call_later(0.2, os._exit, 4)
        return web.Response()

    app = web.Application()
    app.router.add_get("/healthcheck", healthy)
    port = int(arguments[arguments.index("--http-port") + 1])
    web.run_app(app, host="127.0.0.1", port=port)


def main(arguments: list[str]) -> None:
    if "-c" in arguments:
        print("INFO starting\ncodesign-device:", os.environ.get("FAKE_DEVICE", "cpu"))
        return
    behaviour = os.environ.get("FAKE_VLLM", "").split(",")
    print("loading weights", flush=True)
    if "args" in behaviour:
        key = arguments[arguments.index("--api-key") + 1]
        print(f"non-default args: {arguments}\nkey of {len(key)} letters", flush=True)
        print(f"token {os.environ.get('HF_TOKEN')}", flush=True)
    if "die" in behaviour:
        print("(EngineCore pid=1) ValueError: no such model")
        print("RuntimeError: Engine core initialization failed. See root cause above.")
        sys.exit(3)
    if "child" in behaviour:
        child = subprocess.Popen([sys.executable, "-c", _DEAF_CHILD])
        print(f"child {child.pid}", flush=True)
    if "capture" in behaviour:
        store = Path(os.environ["CODESIGN_STORE"])
        run = capture.RunInfo(run_id="r", pid=os.getpid(), started_ns=time.time_ns(), complete=True)
        capture.create(store, run)
    if "deaf" in behaviour:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "slow" in behaviour:
        time.sleep(60)
    port = int(arguments[arguments.index("--port") + 1])
    app = FakeServer().app()
    web.run_app(app, host="127.0.0.1", port=port, handle_signals="deaf" not in behaviour)
