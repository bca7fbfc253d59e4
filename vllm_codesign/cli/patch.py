"""`codesign patch`: patches of vLLM itself, listed, applied to the one installed here, reverted."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from vllm_codesign import settings
from vllm_codesign.cli.live import servers
from vllm_codesign.cli.patch_text import (
    by,
    explained,
    listed,
    outcome_plain,
    patch_plain,
    said,
    title,
    where,
)
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.patching.catalog import shipped
from vllm_codesign.patching.change import Outcome, apply, revert, tidy
from vllm_codesign.patching.installation import Installation, find
from vllm_codesign.patching.kept import Kept
from vllm_codesign.patching.patch_file import Patch
from vllm_codesign.patching.state import PatchState, State, known, states

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
_WIDTH = 92


@click.group("patch")
def command() -> None:
    """List patches of vLLM itself, apply them to the one installed here, or revert them."""


@command.command("list")
@_AS_JSON
def list_(as_json: bool) -> None:
    """List the patches that come with codesign, and which fit the vLLM here.

    \b
    codesign patch list
    """
    patches = shipped()
    here: Installation | None = None
    try:
        here = find()
        found = f"vLLM {here.version} in {here.site}"
    except CodesignError as error:
        found = str(error)
    if as_json:
        rows = [listed(patch, here) for patch in patches]
        click.echo(json.dumps({"vllm": here and where(here), "patches": rows}, indent=2))
        return
    click.echo(found)
    for patch in patches:
        fits = here is not None and here.version == patch.version
        click.echo(f"\n{patch.name}  for vLLM {patch.version}{', which is here' if fits else ''}")
        for text in filter(None, (patch.subject, patch.why)):
            click.echo(textwrap.indent(textwrap.fill(text, _WIDTH - 4), "    "))
    if not patches:
        click.echo("this codesign comes with no patch")


@command.command("status")
@_AS_JSON
def status(as_json: bool) -> None:
    """Say of every patch and every file of it how far it is applied here.

    Told by the files' own checksums. Nothing is written.

    \b
    codesign patch status
    """
    here = find()
    found = states(here, shipped())
    damaged = [str(path) for path in Kept(here.site).damaged(here.version)]
    if as_json:
        rows = [patch_plain(each) for each in found]
        document = {"vllm": where(here), "patches": rows, "damaged": damaged}
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"vLLM {here.version} in {here.site}")
    for each in found:
        click.echo(f"{title(each.patch)}: {explained(each)}")
        width = max((len(file.change.path) for file in each.files), default=0)
        for file in each.files:
            click.echo(f"    {file.change.path:{width}}  {file.state}{by(file)}")
    if not found:
        click.echo("this codesign comes with no patch")
    for path in damaged:
        click.echo(
            f"{path} cannot be read and is passed over: remove it if no file above is changed by "
            "somebody else, or install vLLM anew"
        )


@command.command("apply")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="All patches for the vLLM here, in order.")
@_DRY_RUN
@_AS_JSON
def apply_(name: str | None, every: bool, dry_run: bool, as_json: bool) -> None:
    """Apply a patch to the vLLM installed here.

    NAME may be shortened as long as it is one patch's; it may be left out where only one fits.
    Nothing is written unless version and checksums of all files are those that the patch was
    made for. Servers that run keep the code they have loaded.

    \b
    codesign patch apply --dry-run
    codesign patch apply 0001
    codesign patch apply --all
    """
    if name and every:
        raise click.UsageError("NAME or --all, not both")
    here = find()
    patches = shipped()
    fitting = [patch for patch in patches if patch.version == here.version]
    if not fitting:
        versions = ", ".join(sorted({patch.version for patch in patches})) or "none"
        raise CodesignError(
            f"no patch is for vLLM {here.version}, which is installed here (there are patches for: "
            f"{versions})"
        )
    if not name and not every and len(fitting) > 1:
        raise CodesignError(
            f"several patches are for vLLM {here.version}, name one or say --all: "
            + ", ".join(patch.name for patch in fitting)
        )
    chosen = [_named(name, fitting, patches, here)] if name else fitting
    _change(apply, here, chosen, patches, dry_run, as_json)


@command.command("revert")
@click.argument("name", required=False)
@_DRY_RUN
@_AS_JSON
def revert_(name: str | None, dry_run: bool, as_json: bool) -> None:
    """Give back vLLM's files as they were before a patch; without NAME before all.

    What `apply` kept is used where it is there and whole, else the patch is taken back from the
    file. Either way the result's checksum is verified before anything is written.

    \b
    codesign patch revert
    codesign patch revert 0001 --dry-run
    """
    here = find()
    patches = shipped()
    if name:
        # What is applied first: an earlier edition bears the same name.
        applied = [each.patch for each in states(here, patches) if _touched(each)]
        at_hand = applied + [each for each in known(here, patches) if each not in applied]
        chosen = [_named(name, at_hand, patches, here)]
    else:
        chosen = [each.patch for each in reversed(states(here, patches)) if _touched(each)]
        if not (chosen or dry_run):
            tidy(here, patches)
    _change(revert, here, chosen, patches, dry_run, as_json)


def _touched(state: PatchState) -> bool:
    return any(file.state is State.APPLIED for file in state.files)


def _named(
    name: str, at_hand: Sequence[Patch], patches: Sequence[Patch], here: Installation
) -> Patch:
    name = name.removesuffix(".patch")
    found = [patch for patch in at_hand if patch.name == name]
    found = found or [patch for patch in at_hand if patch.name.startswith(name)]
    if len({patch.name for patch in found}) > 1:
        raise CodesignError(
            f"{name} may be {' or '.join(patch.name for patch in found)}: write more of it"
        )
    if found:
        return found[0]
    for patch in patches:
        if patch.name.startswith(name):
            raise CodesignError(
                f"{patch.name} is for vLLM {patch.version}, and {here.version} is installed here: "
                "see codesign patch list"
            )
    raise CodesignError(f"no patch is called {name}: see codesign patch list")


def _change(
    do: Callable[[Installation, Patch, Sequence[Patch], bool], Outcome],
    here: Installation,
    chosen: Sequence[Patch],
    patches: Sequence[Patch],
    dry_run: bool,
    as_json: bool,
) -> None:
    applying = do is apply
    outcomes: list[Outcome] = []
    planned = here
    # What one patch refuses is known before another is applied.
    for patch in chosen:
        outcomes.append(do(planned, patch, patches, True))
        planned = planned.after(outcomes[-1].contents)
    if not dry_run:
        outcomes = [do(here, patch, patches, False) for patch in chosen]
    if not as_json:
        for outcome in outcomes:
            click.echo(said(outcome, applying, dry_run))
    if not chosen and not as_json:
        click.echo("no patch is applied, nothing to revert")
    changes = any(outcome.done for outcome in outcomes)
    warnings = _running(here) if changes else []
    for warning in warnings:
        click.echo(f"codesign: {warning}", err=True)
    if as_json:
        document = {
            "vllm": where(here),
            "dry_run": dry_run,
            "patches": [outcome_plain(outcome, applying) for outcome in outcomes],
            "warnings": warnings,
        }
        click.echo(json.dumps(document, indent=2))


def _running(here: Installation) -> list[str]:
    """Live servers that have loaded libraries from this environment, or may have."""
    found = []
    for server in servers(settings.load()[0].shm):
        try:
            if f" {here.site.resolve()}/" not in Path(f"/proc/{server.pid}/maps").read_text():
                continue
        except OSError:
            pass  # not ours to read, or just gone: better a warning too many
        found.append(
            f"the server with pid {server.pid} ({server.what}) seems to run this vLLM and keeps "
            "the code it has loaded: restart it"
        )
    return found
