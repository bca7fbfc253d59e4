"""`codesign demo`: the other commands in a row, on a model made on the spot."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

import click

from vllm_codesign import settings
from vllm_codesign.bench import results, tiny_model
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.recorder import process, session

# Eager, because compiling takes longer than all else here; the context fits the quick set.
SERVER_FLAGS = ("--enforce-eager", "--max-model-len", "8192", "--served-model-name", "tiny")

_MADE = ("capture", "results.json", "report.html", "server.log")
_SESSION_END_S = 20.0
"""The exporter drains and leaves within 5 s of the server's end; two busy cores take longer."""


@click.command(name="demo")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/demo"),
    show_default=True,
    help="Folder for capture/, results.json and report.html; an earlier demo's are replaced.",
)
@click.option(
    "--model",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the tiny model, made there if need be.  [default: OUT/model]",
)
@click.pass_context
def command(ctx: click.Context, out: Path, model: Path | None) -> None:
    """Serve a tiny model with vLLM, load it, and show where the time went.

    Needs vLLM, two cores and some minutes; no GPU and no download.

    \b
    Example:
      codesign demo --out out/demo
    """
    model = model or out / "model"
    tiny_model.make(model)
    _clear(out)
    os.environ["VLLM_PLUGINS"] = "codesign"
    os.environ[settings.ENV_STORE] = str((out / "capture").absolute())
    shm = settings.load()[0].shm
    before = {each.folder for each in session.sessions(shm)}
    load = ["--model", str(model.absolute()), "--set", "quick", "--out", str(out)]
    try:
        # Its summary stays out: `analyze` shows the client's figures beside the server's.
        with contextlib.redirect_stdout(io.StringIO()):
            _call(ctx, "bench", *load, "--", *SERVER_FLAGS)
    finally:
        _see_sessions_off(shm, before)
    _check(out)
    _call(ctx, "analyze", str(out))
    _call(ctx, "report", str(out), "--out", str(out / "report.html"))
    click.echo(f"\nOpen {out / 'report.html'} in a browser for the waterfalls of the slowest.")
    click.echo("For a server of yours: VLLM_PLUGINS=codesign vllm serve MODEL, codesign analyze.")


def _clear(out: Path) -> None:
    """Remove what an earlier demo wrote; `bench` would take it up where it ended."""
    for name in _MADE:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _call(ctx: click.Context, name: str, *arguments: str) -> None:
    """Run another command as a user would, and show how."""
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    chosen = group.get_command(ctx, name)
    assert chosen is not None
    click.echo(f"\n$ codesign {shlex.join([name, *arguments])}", err=True)
    status = chosen.main([*arguments], prog_name=f"codesign {name}", standalone_mode=False)
    if isinstance(status, int) and status:
        sys.exit(status)


def _see_sessions_off(shm: Path, before: set[Path]) -> None:
    """Wait until the server's exporter has left and taken the shared memory with it.

    What an exporter that was killed left behind is removed here.
    """
    deadline = time.monotonic() + _SESSION_END_S
    while time.monotonic() < deadline:
        ours = [each for each in session.sessions(shm) if each.folder not in before]
        # A session whose owner lives is that of another server, started in the meantime.
        ended = [each for each in ours if not process.alive(*each.owner)]
        for each in ended:
            if not session.live(each):
                each.remove()
        if not ended:
            return
        time.sleep(0.1)


def _check(out: Path) -> None:
    run = results.read(out / results.FILE_NAME)
    if run is None or run.capture is None:
        raise CodesignError(
            f"the server left no capture in {out / 'capture'}; codesign doctor tells why, "
            f"{out / 'server.log'} has its log"
        )
    failed = [each for each in run.requests if each.status == "error"]
    if failed:
        raise CodesignError(
            f"{len(failed)} of {len(run.requests)} requests failed, the first with"
            f" {failed[0].error!r}; see {out / 'server.log'}"
        )
