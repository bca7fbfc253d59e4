"""`codesign micro`: single components on this machine, beside the study's figures."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.measure import Measurement

from vllm_codesign.analysis.micro_sheets import micro_sheets
from vllm_codesign.analysis.study_components import published
from vllm_codesign.bench import tiny_model
from vllm_codesign.cli.kv_table import sheet_table
from vllm_codesign.micro.harness import Clock
from vllm_codesign.micro.run import NAMES, Plan, execute
from vllm_codesign.micro.scheduler import Grid
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.micro import MicroRun

_SIZES = (1_000, 8_000, 32_000, 64_000, 100_000, 150_000)
_QUICK_SIZES = (1_000, 4_000, 16_000)
_ROUNDS, _QUICK_ROUNDS = 15, 5
_SECONDS, _QUICK_SECONDS = 600.0, 90.0
_NO_LIMIT = 1_000
_FEWEST, _MOST = 16, 1_000_000


@click.command("micro")
@click.argument("components", nargs=-1, metavar="[COMPONENT]...")
@click.option(
    "--tokens",
    metavar="N,N,...",
    help=f"Sizes of the prompts.  [default: {','.join(map(str, _SIZES))}]",
)
@click.option("--model", help="Whose tokenizer; default: the small model, made in out/demo/model.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 10_000),
    help=f"How often each case is timed.  [default: {_ROUNDS}]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help=f"For timing, with the rounds that fit; loading is extra.  [default: {_SECONDS:.0f}]",
)
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="Use cpu where the machine has other work meanwhile.",
)
@click.option("--quick", is_flag=True, help="Small sizes and few rounds: does it run?")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("out/micro.json"),
    show_default=True,
    help="File to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    components: tuple[str, ...],
    tokens: str | None,
    model: str | None,
    rounds: int | None,
    seconds: float | None,
    clock: Clock,
    quick: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Time single components of the serving path on this machine, and how they grow.

    \b
    COMPONENT, all unless named:
      encode decode detokenize json validate sse_encode sse_parse
      sha256 block_hash lmcache_key scheduler

    vLLM's and LMCache's own code is called where they are installed; no server is started. Each
    result is checked. Beside the figures stand those of the MI300X study.

    \b
    codesign micro --quick
    codesign micro --model Qwen/Qwen3-0.6B --out out/micro.json
    codesign micro encode decode --tokens 1000,10000,100000 --json
    codesign report --micro out/micro.json
    """
    unknown = [name for name in components if name not in NAMES]
    if unknown:
        raise CodesignError(f"no component {unknown[0]!r}; there is: {', '.join(NAMES)}")
    plan = Plan(
        names=tuple(dict.fromkeys(components)) or NAMES,
        model=lambda: model if model is not None else _small_model(),
        sizes=_sizes(tokens) if tokens is not None else _QUICK_SIZES if quick else _SIZES,
        rounds=rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
        seconds=seconds or (_QUICK_SECONDS if quick else _SECONDS),
        grid=Grid.quick() if quick else Grid.full(),
        clock=clock,
    )
    _check_writable(out)
    # vLLM's logger writes to stdout, which is for the tables here.
    with Console(stderr=True).status("") as status, contextlib.redirect_stdout(sys.stderr):
        run = execute(plan, status.update)
    _write(out, run)
    if as_json:
        click.echo(run.model_dump_json(indent=1))
        return
    show(run)
    click.echo(f"{out}: {len(run.timings)} timings; codesign report --micro {out} draws them")


def show(run: MicroRun) -> None:
    """The tables, and what they were taken with."""
    console = Console(highlight=False, width=_NO_LIMIT)
    for sheet in micro_sheets(run):
        table = sheet_table(sheet)
        console.width = Measurement.get(console, console.options, table).maximum
        console.print(table, "")
        console.width = _NO_LIMIT
    click.echo(", ".join(f"{name} {value}" for name, value in run.environment.items()))
    click.echo(f"study: {published()[0]}")


def _small_model() -> str:
    path = Path("out/demo/model")
    tiny_model.make(path)
    return str(path)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        found = sorted({int(part) for part in text.replace("_", "").split(",")})
    except ValueError:
        raise CodesignError(
            f"--tokens {text!r} is no list of numbers: write it like 1000,8000,32000"
        ) from None
    if found[0] < _FEWEST or found[-1] > _MOST:
        raise CodesignError(f"--tokens {text}: sizes are from {_FEWEST} to {_MOST:,} tokens")
    return tuple(found)


def _check_writable(out: Path) -> None:
    """Before minutes are spent on what cannot be kept."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise _cannot_write(out, error) from error


def _write(out: Path, run: MicroRun) -> None:
    """Whole or not at all."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(run.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        raise _cannot_write(out, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _cannot_write(out: Path, error: OSError) -> CodesignError:
    why = "its folder is a file" if isinstance(error, FileExistsError) else error.strerror
    return CodesignError(f"cannot write {out} ({why}): name another file with --out")
