"""What becomes of an error on the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from vllm_codesign.cli import main as cli
from vllm_codesign.model.errors import CodesignError


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes a command `doctor` that raises what it is given."""

    def install(error: BaseException) -> None:
        @click.command("doctor")
        def command() -> None:
            raise error

        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)

    return install


def test_an_error_of_ours_is_one_line_and_1(raising, capfd) -> None:
    raising(CodesignError("no capture: run a server first"))
    assert cli.main(["doctor"]) == 1
    assert capfd.readouterr() == ("", "codesign: no capture: run a server first\n")


def test_an_interrupt_is_one_line_and_130(raising, capfd) -> None:
    raising(KeyboardInterrupt())
    assert cli.main(["doctor"]) == 130
    assert capfd.readouterr().err.strip() == "codesign: interrupted"


def test_duckdbs_interrupt_is_one_too(raising, capfd) -> None:
    raising(RuntimeError("Query interrupted"))
    assert cli.main(["doctor"]) == 130
    assert capfd.readouterr().err == "codesign: interrupted\n"
    raising(RuntimeError("dictionary changed size"))
    with pytest.raises(RuntimeError, match="changed size"):
        cli.main(["doctor"])


def test_what_nobody_expected_keeps_its_traceback(raising) -> None:
    raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_the_status_that_a_command_asks_for_is_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("doctor")
    @click.pass_context
    def command(ctx: click.Context) -> None:
        ctx.exit(1)

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)
    assert cli.main(["doctor"]) == 1


def test_wrong_usage_is_2(capfd) -> None:
    assert cli.main(["nonsense"]) == 2
    assert "No such command 'nonsense'" in capfd.readouterr().err


def test_version(capfd) -> None:
    assert cli.main(["--version"]) == 0
    assert capfd.readouterr().out == f"codesign {cli.__version__}\n"


def test_a_command_without_its_module_is_named_when_used(
    monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "nowhere", "Not there.")
    assert cli.main(["--help"]) == 0
    assert cli.main(["nowhere"]) == 1
    assert "nowhere is not part of this installation" in capfd.readouterr().err


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError("No module named 'duckdb'", name="duckdb")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    assert cli.main(["analyze"]) == 1
    assert "analyze needs the module duckdb" in capfd.readouterr().err


def test_a_reader_that_leaves_early_is_no_error_to_speak_of() -> None:
    script = "from vllm_codesign.cli.main import main; import sys; sys.exit(main(['--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 1
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
