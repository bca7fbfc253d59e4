"""Writes docs/commands.md from the `--help` of every command: `make docs`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import click

from vllm_codesign.cli.main import codesign

PAGE = Path(__file__).with_name("commands.md")

_WIDTH = 92
_INTRODUCTION = """\
<!-- Written by docs/generate_commands.py from the commands' --help; `make docs`. -->
# Commands

What `--help` prints, of every command. Where a command has `--json`, that is for machines; its
progress goes to stderr. The exit status is 0 on success alone; 1 is an error that one line on
stderr explains ([messages](messages.md)), 2 wrong usage, 130 an interrupt.
"""


def page() -> str:
    """The whole text of docs/commands.md."""
    parts = [_INTRODUCTION]
    for name, text in _helps(codesign, "codesign", None):
        parts.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _helps(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[str, str]]:
    """Full name and help of a command and of those below it."""
    # click keeps the help option that a command was first asked with, whoever asked.
    command = copy.copy(command)
    vars(command)["_help_option"] = None
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        # The group's own, which click hands on to a command once it has been called.
        **{**codesign.context_settings, **command.context_settings},
    )
    yield context.command_path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            inner = command.get_command(context, each)
            if inner is not None:
                yield from _helps(inner, each, context)
