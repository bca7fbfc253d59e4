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

from vllm_codesign.model.errors import CodesignError
from vllm_codesign.report.served import LOOPBACK, Served


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
    """Serve the report of CAPTURE on this machine, until interrupted.

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
    address, number = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    click.echo(f"http://{shown}:{number}/ serves {served.capture.path}; end it with Ctrl-C")
    if address not in LOOPBACK:
        click.echo("codesign: whoever reaches this address can read the capture", err=True)
    asyncio.run(_serve(served, listening, LOOPBACK if address in LOOPBACK else ()))


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


async def _serve(served: Served, listening: socket.socket, hosts: tuple[str, ...]) -> None:
    runner = web.AppRunner(served.application(hosts), access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await ended.wait()
    finally:
        await runner.cleanup()
