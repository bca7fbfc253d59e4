"""`codesign`: the group of commands, and what becomes of an error.

A command's module is imported when it is used and not before: `codesign --help` needs
none of the libraries that read captures or draw reports.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from vllm_codesign import __version__
from vllm_codesign.model.errors import CodesignError

# The short help stands here and not in the modules, so that listing them imports none.
COMMANDS = {
    "doctor": "Check hooks, settings and environment without starting a server.",
    "level": "List live servers, or switch their tracing while they run.",
    "bench": "Load a server with scenarios and keep what the client saw.",
    "analyze": "Print where the time went: the client's view beside the server's.",
    "compare": "Compare two runs: what differs beyond noise, and where the time went.",
    "report": "Write the same as one HTML file that opens from disk.",
    "view": "Serve the report of a large or growing capture on this machine.",
    "store": "List captures, or load one into ClickHouse.",
    "patch": "List, apply or revert patches of the vLLM installed here.",
    "dump": "Print every record of a capture.",
    "micro": "Time single components on this machine, and how they grow.",
    "demo": "Serve a tiny model, load it, and show the tables and the report.",
}

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_BY_DUCKDB = "Query interrupted"
"""What DuckDB makes of an interrupt that comes while it works: a bare RuntimeError."""


class LazyGroup(click.Group):
    """Finds a command in the module of its name when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module_name = f"vllm_codesign.cli.{cmd_name}"
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name == module_name:
                raise CodesignError(
                    f"{cmd_name} is not part of this installation ({__version__});"
                    " reinstall vllm-codesign"
                ) from None
            if (error.name or "").startswith("vllm_codesign"):
                raise
            raise CodesignError(
                f"{cmd_name} needs the module {error.name}, which is not installed;"
                " pip install vllm-codesign brings it, pip install --no-deps does not"
            ) from None
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="codesign", message="%(prog)s %(version)s")
def codesign() -> None:
    """Where the time of a vLLM request goes: host and device, hidden and exposed.

    \b
    VLLM_PLUGINS=codesign vllm serve MODEL
    codesign bench --url http://127.0.0.1:8000 --set quick
    codesign analyze
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    An error that the user can mend is one line on stderr and 1; wrong usage is 2; an
    interrupt is one line and 130. What nobody expected keeps its traceback.
    """
    try:
        result = codesign.main(
            args=None if arguments is None else list(arguments),
            prog_name="codesign",
            standalone_mode=False,
        )
        sys.stdout.flush()
    except CodesignError as error:
        print(f"codesign: {error}", file=sys.stderr)
        return 1
    except (click.Abort, KeyboardInterrupt):  # the first is what click makes of the second
        return _interrupted()
    except RuntimeError as error:
        if str(error) != _BY_DUCKDB:
            raise
        return _interrupted()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader (`head`, a pager) has seen enough. The interpreter flushes once more
        # when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def _interrupted() -> int:
    print("codesign: interrupted", file=sys.stderr)
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
