"""`codesign view`: the report of a large or still growing capture, served on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import click
from aiohttp import web
from rich.console import Console

from vllm_codesign.cli.main import INTERRUPTED
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.report.served import LOOPBACK, Served

_PATIENCE_S = 2.0
"""With requests that are being answered when it ends."""


@click.command("view")
@click.argument("capture", required=False, type=click.Path(path_type=Path))
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="results.json of `codesign bench`. Default: the one beside the capture, if any.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Anybody who reaches it can read the capture.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port to listen on. Default: any that is free.",
)
def command(capture: Path | None, results: Path | None, host: str, port: int) -> None:
    """Serve the report of CAPTURE on this machine, until interrupted (exit status 130).

    CAPTURE is found as `codesign analyze` finds it. It may be of any size and still be growing:
    every request can be searched and opened, and new ones appear. Nothing is written, and no
    browser is opened: the address is printed.

    \b
    codesign view
    codesign view out/demo --port 8700
    """
    with Console(stderr=True).status("reading the capture"):
        served = Served(capture, results)
    listening = _listen(host, port)
    if asyncio.run(_serve(served, listening)) == signal.SIGINT:
        click.get_current_context().exit(INTERRUPTED)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where[:2], family=family)
    except OSError as error:
        # A name that is not known has an error number of its own, and no text by it.
        gai = isinstance(error, socket.gaierror)
        cause = error.strerror if gai else os.strerror(error.errno or 0)
        raise CodesignError(
            f"cannot listen on {host} port {port}: {cause}; name another with --host or --port"
        ) from error


async def _serve(served: Served, listening: socket.socket) -> int:
    """Say where, and serve; the signal that ended it."""
    ended: asyncio.Queue[int] = asyncio.Queue()
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Under nohup it is to outlive its terminal.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, ended.put_nowait, int(number))
    address, port = listening.getsockname()[:2]
    application = served.application(LOOPBACK if address in LOOPBACK else ())
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_PATIENCE_S)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        shown = f"[{address}]" if ":" in address else address
        click.echo(f"http://{shown}:{port}/ serves {served.capture.path}; end it with Ctrl-C")
        if address not in LOOPBACK:
            click.echo("codesign: whoever reaches this address can read the capture", err=True)
        return await ended.get()
    finally:
        await runner.cleanup()
