"""`codesign report`: the same as `analyze`, as one HTML file."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import click
from rich.console import Console

from vllm_codesign.analysis.overview import overview
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.report.page import render


@click.command("report")
@click.argument("capture", required=False, type=click.Path(path_type=Path))
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="results.json of `codesign bench`. Default: the one beside the capture, if any.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="File to write.",
)
@click.option("--scenario", metavar="NAME", help="Show this scenario alone.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    capture: Path | None, results: Path | None, out: Path, scenario: str | None, as_json: bool
) -> None:
    """Write a report about CAPTURE: one file that opens from disk, offline.

    CAPTURE is found as `codesign analyze` finds it.

    \b
    codesign report
    codesign report out/demo --out demo.html
    """
    with Console(stderr=True).status("reading the capture"):
        view = overview(capture, results, scenario, with_steps=True)
        page = render(view)
    _write(out, page)
    if as_json:
        click.echo(json.dumps({"report": str(out), "bytes": out.stat().st_size}))
    else:
        click.echo(f"{out}: {view.finding}")


def _write(out: Path, page: str) -> None:
    """Whole or not at all: the file may be open in a browser that reloads."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        raise CodesignError(f"cannot write {out}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never there
            temporary.unlink()
