"""`results.json` on disk: written whole, read back, and continued by the same run only."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from vllm_codesign.model.bench import ArmsRun, BenchRun
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.recorder.command_line import without_secrets, without_userinfo

FILE_NAME = "results.json"
_Run = TypeVar("_Run", BenchRun, ArmsRun)


def write(path: Path, run: BenchRun | ArmsRun) -> None:
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
    return _read(path, BenchRun)


def read_arms(path: Path) -> ArmsRun | None:
    """The same of a run with arms."""
    return _read(path, ArmsRun)


def _read(path: Path, model: type[_Run]) -> _Run | None:
    try:
        content = path.read_bytes()
        _check_kind(path, content, model)
        return model.model_validate_json(content)
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


def _check_kind(path: Path, content: bytes, model: type[BenchRun] | type[ArmsRun]) -> None:
    try:
        document = json.loads(content)
    except ValueError:
        return  # the model says what is wrong
    with_arms = isinstance(document, dict) and "arms" in document
    if with_arms != (model is ArmsRun):
        raise CodesignError(
            f"{path} holds a run {'with' if with_arms else 'without'} --arm: name another folder "
            "with --out, or remove it"
        )


def check_same(path: Path, old: BenchRun, new: BenchRun) -> None:
    """Raise CodesignError unless `new` asks for what `old` asked for."""
    _check(
        path,
        ("another server", _server(old), _server(new)),
        ("another model", without_userinfo(old.model), without_userinfo(new.model)),
        ("another arrival", old.arrival, new.arrival),
        ("other scenarios", old.scenarios, new.scenarios),
    )


def check_same_arms(path: Path, old: ArmsRun, new: ArmsRun) -> None:
    """The same of runs with arms. Repeats may be added to a run, and none taken away."""
    _check(
        path,
        ("another model", without_userinfo(old.model), without_userinfo(new.model)),
        ("other server flags", _shown(old.server_flags), _shown(new.server_flags)),
        ("another arrival", old.arrival, new.arrival),
        ("another warm-up", str(old.warm_up), str(new.warm_up)),
        ("other arms", ", ".join(old.arms), ", ".join(new.arms)),
        ("arms that are defined otherwise", old.definitions, new.definitions),
        ("another --lmcache-gib", str(old.lmcache_gib), str(new.lmcache_gib)),
        ("more repeats", str(max(old.repeats, new.repeats)), str(new.repeats)),
        ("other scenarios", old.scenarios, new.scenarios),
    )


def _check(path: Path, *same: tuple[str, object, object]) -> None:
    for what, before, now in same:
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
        return without_userinfo(run.url)
    command = list(run.server_command)
    if "--port" in command:
        at = command.index("--port")
        del command[at : at + 2]
    return _shown(command)


def _shown(words: Sequence[str]) -> str:
    """Files of earlier versions may have secrets in them: neither compared nor printed."""
    return " ".join(without_secrets(words))
