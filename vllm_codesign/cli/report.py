"""`codesign report`: the same as `analyze`, as one HTML file."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import click
from rich.console import Console

from vllm_codesign.analysis.against import against
from vllm_codesign.analysis.arms import compare
from vllm_codesign.analysis.micro import read
from vllm_codesign.analysis.overview import arms_of, overview
from vllm_codesign.analysis.samples import Samples
from vllm_codesign.analysis.sides import Server, server_of
from vllm_codesign.model.bench import ArmsRun
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.report.against_page import render_against
from vllm_codesign.report.arms_page import render_arms
from vllm_codesign.report.micro_page import render_micro, section
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
@click.option(
    "--against",
    "other",
    type=click.Path(path_type=Path),
    help="A second capture: write what differs between the two.",
)
@click.option(
    "--micro",
    "micro_file",
    type=click.Path(path_type=Path),
    help="What `codesign micro` wrote: plots of it, alone where no CAPTURE is named.",
)
@click.option("--scenario", metavar="NAME", help="Show this scenario alone.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    capture: Path | None,
    results: Path | None,
    out: Path,
    other: Path | None,
    micro_file: Path | None,
    scenario: str | None,
    as_json: bool,
) -> None:
    """Write a report about CAPTURE: one file that opens from disk, offline.

    CAPTURE is found as `codesign analyze` finds it. A folder that `codesign bench --arm` wrote
    gives the comparison of its arms.

    \b
    codesign report
    codesign report out/demo --out demo.html
    codesign report out/arms --out arms.html
    codesign report out/after --against out/before
    codesign report out/demo --micro out/micro.json
    """
    micro = read(micro_file) if micro_file is not None else None
    named = results or capture
    arms = arms_of(named) if named is not None else None
    if micro_file is not None and (other is not None or arms is not None):
        raise CodesignError("--micro goes with one capture or alone: leave --against and arms out")
    notes: tuple[str, ...] = ()
    with Console(stderr=True).status("reading the capture"):
        if micro is not None and micro_file is not None and named is None:
            page, said = render_micro(micro, micro_file), f"{len(micro.timings)} timings drawn"
        elif other is not None:
            found = against(_server(capture, results, scenario), _server(other, None, scenario))
            page, said, notes = render_against(found), found.sentence, found.levels
        elif arms is not None:
            page, said = _compared(*arms, scenario)
        else:
            view = overview(capture, results, scenario)
            drawn = section(micro, micro_file) if micro is not None and micro_file else None
            page, said = render(view, scenario, drawn), view.verdicts[0].sentence
    _write(out, page)
    for line in notes:
        click.echo(f"codesign: {line}", err=True)
    if as_json:
        click.echo(json.dumps({"report": str(out), "bytes": out.stat().st_size}))
    else:
        click.echo(f"{out}: {said}")


def _server(capture: Path | None, results: Path | None, scenario: str | None) -> Server:
    samples = Samples()
    return server_of(overview(capture, results, scenario, samples=samples), samples, scenario)


def _compared(run: ArmsRun, folder: Path, scenario: str | None) -> tuple[str, str]:
    """The page of a run with arms, and a line about it."""
    if scenario is not None:
        names = [each.name for each in run.scenarios]
        if scenario not in names:
            raise CodesignError(f"no scenario {scenario!r} here; there is: {', '.join(names)}")
        only = [each for each in run.scenarios if each.name == scenario]
        run = run.model_copy(update={"scenarios": only})
    page = render_arms(run, compare(run, folder), folder)
    return page, f"{len(run.servers)} servers of {', '.join(run.arms)} compared"


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
