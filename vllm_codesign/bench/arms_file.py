"""Arms of one's own: server configurations from a file, and those that are built in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vllm_codesign.bench.arms import BUILT_IN
from vllm_codesign.bench.placement import parse_cores
from vllm_codesign.bench.tables_file import read_tables
from vllm_codesign.model.bench import Arm
from vllm_codesign.model.errors import CodesignError


def select(names: Sequence[str], file: Path | None) -> tuple[Arm, ...]:
    """The arms called `names`, in that order: of the file and built in; all of the file without.

    Raises CodesignError naming the file, what is wrong in it and the cure.
    """
    own = read_file(file) if file is not None else ()
    if not names:
        return own
    offered = {arm.name: arm for arm in (*BUILT_IN, *own)}
    for name in names:
        if name not in offered:
            raise CodesignError(f"no arm is called {name!r}: choose from {', '.join(offered)}")
    return tuple(offered[name] for name in dict.fromkeys(names))


def read_file(path: Path) -> tuple[Arm, ...]:
    """The arms of a TOML or JSON file, in its order; raises CodesignError."""
    arms: list[Arm] = []
    for where, arm in read_tables(path, "arm", Arm):
        if any(arm.name == other.name for other in (*BUILT_IN, *arms)):
            raise CodesignError(f"{where}: name is taken: choose another")
        for role, cores in arm.cores.items():
            try:
                parse_cores(cores)
            except ValueError as error:
                raise CodesignError(f"{where}: cores.{role}: {error}") from error
        arms.append(arm)
    return tuple(arms)
