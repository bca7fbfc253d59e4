"""`results.json` on disk: written whole, read back, and continued by the same run only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pydantic import ValidationError

from vllm_codesign.model.bench import BenchRun
from vllm_codesign.model.errors import CodesignError

FILE_NAME = "results.json"


def write(path: Path, run: BenchRun) -> None:
    """Replace `path` in one step: a reader, or a crash, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(run.model_dump_json(indent=1, exclude_none=True))
            file.write("\n")
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: Path) -> BenchRun | None:
    """The run in `path`, None where there is none; raises CodesignError if it is damaged."""
    try:
        return BenchRun.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CodesignError(
            f"{path}: cannot be read ({error.strerror}): name another folder with --out"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise CodesignError(
            f"{path}: not a results file of this version ({field}: {first['msg']}): "
            "name another folder with --out, or remove it"
        ) from error


def check_same(path: Path, old: BenchRun, new: BenchRun) -> None:
    """Raise CodesignError unless `new` asks for what `old` asked for."""
    for what, before, now in (
        ("another server", _server(old), _server(new)),
        ("another model", old.model, new.model),
        ("another arrival", old.arrival, new.arrival),
        ("other scenarios", old.scenarios, new.scenarios),
    ):
        if before != now:
            raise CodesignError(
                f"{path} holds a run with {what}{_difference(before, now)}: name another "
                "folder with --out, or remove it"
            )


def _difference(before: object, now: object) -> str:
    if isinstance(before, str) and isinstance(now, str):
        return f" ({before}, not {now})"
    return ""


def _server(run: BenchRun) -> str:
    """What makes two servers the same: the command, whatever port it got; else the URL."""
    if run.server_command is None:
        return run.url
    command = list(run.server_command)
    if "--port" in command:
        at = command.index("--port")
        del command[at : at + 2]
    return " ".join(command)
