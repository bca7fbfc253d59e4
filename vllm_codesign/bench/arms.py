"""The same scenarios against several server configurations, started in turn.

An arm is a configuration with a name. Each of its repeats is a server of its own, started and
stopped here, one at a time, with its results and its capture in `OUT/ARM/REPEAT`. The order of
the arms is turned round from one repeat to the next (A B, B A, A B), so that a machine that
gets slower over the run does so for all of them.

A repeat that was interrupted is made anew and not continued: its second half would meet an
empty cache. Repeats that are done are kept.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_codesign import __version__
from vllm_codesign.bench import lmcache_server, results
from vllm_codesign.bench.lmcache_server import LMCacheServer
from vllm_codesign.bench.own_server import OwnServer, execute_with
from vllm_codesign.bench.placement import Roles, parse_cores
from vllm_codesign.bench.run import Plan
from vllm_codesign.bench.server import check_flags, say
from vllm_codesign.bench.vllm_platform import device_type
from vllm_codesign.model.bench import Arm, ArmRepeat, ArmsRun, BenchRun
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.recorder.command_line import without_secrets, without_userinfo
from vllm_codesign.semconv.metrics import ARM
from vllm_codesign.semconv.service import RESOURCE_ATTRIBUTES

BUILT_IN = (Arm(name="hbm"), Arm(name="lmcache", lmcache=True))
"""vLLM's prefix cache alone, and the same with an LMCache server behind it: the study's two."""
DEFAULT_REPEATS = 3
DEFAULT_LMCACHE_GIB = 4.0

_FLAGS = ("--enable-prefix-caching",)
"""Of every arm, so that they differ in nothing unsaid; vLLM's default for text models."""
_ARM = f"{ARM.key}="
_OURS = ("--kv-transfer-config", "--enable-prefix-caching", "--no-enable-prefix-caching")


@dataclass(frozen=True, slots=True)
class ArmsPlan:
    """What to run: `plan` against `server` in each of `arms`, `repeats` times.

    `lmcache_gib`: host memory that LMCache's server may use.
    """

    server: OwnServer
    plan: Plan
    arms: tuple[Arm, ...]
    repeats: int = DEFAULT_REPEATS
    lmcache_gib: float = DEFAULT_LMCACHE_GIB

    @property
    def with_lmcache(self) -> bool:
        return any(arm.lmcache for arm in self.arms)

    def python(self, arm: Arm) -> str:
        """The interpreter that serves an arm."""
        return arm.python or self.server.python

    def order(self) -> Iterator[tuple[int, Arm]]:
        """Repeat, from 1 on, and arm, in the order of time."""
        for repeat in range(1, self.repeats + 1):
            for arm in self.arms if repeat % 2 else reversed(self.arms):
                yield repeat, arm


def execute_arms(asked: ArmsPlan, out: Path, progress: Callable[[str], None] = say) -> ArmsRun:
    """Make all repeats that `out` lacks, noting each; return the whole run.

    Raises CodesignError before anything is started where that could not succeed, and later
    when a server fails or answers nothing.
    """
    path = out / results.FILE_NAME
    _check(asked)
    run = _begin(asked, path)
    done = {(each.arm, each.repeat) for each in run.servers}
    pending = [each for each in asked.order() if (each[1].name, each[0]) not in done]
    if not pending:
        progress(f"{path} is complete: nothing to do")
        return run
    if done:
        progress(f"{path}: {len(done)} servers are done, going on after them")
    # Without a GPU nobody but the engine's workers can copy blocks.
    engine_driven = {
        python: device_type(python) == "cpu"
        for python in dict.fromkeys(asked.python(arm) for _, arm in pending if arm.lmcache)
    }
    results.write(path, run)
    for repeat, arm in pending:
        folder = out / arm.name / str(repeat)
        shutil.rmtree(folder, ignore_errors=True)
        progress(f"arm {arm.name}, repeat {repeat} of {asked.repeats}, into {folder}")
        started = time.time_ns()
        driven = engine_driven.get(asked.python(arm), False)
        with _configured(arm, asked, folder, driven, progress) as server:
            one = execute_with(server, asked.plan, folder, progress)
        _check_answers(arm.name, repeat, one, folder)
        note = ArmRepeat(
            arm=arm.name,
            repeat=repeat,
            folder=str(folder.relative_to(out)),
            capture=one.capture,
            started_unix_ns=started,
            finished_unix_ns=time.time_ns(),
        )
        run = run.model_copy(update={"servers": [*run.servers, note]})
        results.write(path, run)
    return run


def _check(asked: ArmsPlan) -> None:
    for flags in (asked.server.flags, *(arm.flags for arm in asked.arms)):
        check_flags(tuple(flags))
        for flag in flags:
            # vLLM takes underscores for dashes, and --x.y for a field of x.
            name = flag.split("=")[0]
            if name.split(".")[0].replace("_", "-") in _OURS:
                raise CodesignError(f"{name}: the arms set it; leave the flag out")
    for arm in asked.arms:
        if not os.access(asked.python(arm), os.X_OK):
            raise CodesignError(
                f"arm {arm.name}: {asked.python(arm)} is no interpreter: name the python of an "
                "environment that has vLLM"
            )
        if arm.lmcache:
            lmcache_server.check_installed(asked.python(arm))


def _begin(asked: ArmsPlan, path: Path) -> ArmsRun:
    new = ArmsRun(
        tool_version=__version__,
        model=without_userinfo(asked.server.model),
        server_flags=without_secrets(asked.server.flags),
        arrival=str(asked.plan.arrival),
        warm_up=asked.plan.warm_up,
        arms=[arm.name for arm in asked.arms],
        definitions=[_written(arm) for arm in asked.arms if arm not in BUILT_IN],
        lmcache_gib=asked.lmcache_gib if asked.with_lmcache else None,
        repeats=asked.repeats,
        started_unix_ns=time.time_ns(),
        scenarios=list(asked.plan.scenarios),
        servers=[],
    )
    old = results.read_arms(path)
    if old is not None:
        results.check_same_arms(path, old, new)
        now = {"repeats": new.repeats, "model": new.model, "server_flags": new.server_flags}
        return old.model_copy(update=now)
    for arm in asked.arms:
        # Nobody's folder is removed unless `path` says that it is ours.
        if (path.parent / arm.name).exists():
            raise CodesignError(
                f"{path.parent / arm.name} exists and there is no {path}: "
                "name another folder with --out"
            )
    return new


def _written(arm: Arm) -> Arm:
    """An arm as it may stand in a file: without the secrets of its flags and its environment."""
    lines = without_secrets([f"{name}={value}" for name, value in arm.env.items()])
    env = {name: line.partition("=")[2] for name, line in zip(arm.env, lines, strict=True)}
    return arm.model_copy(update={"flags": without_secrets(arm.flags), "env": env})


def _named(arm: str) -> dict[str, str]:
    """The variable by which traces and metrics say which arm they are of."""
    given = os.environ.get(RESOURCE_ATTRIBUTES, "")
    others = [each for each in given.split(",") if each.strip() and not each.startswith(_ARM)]
    return {RESOURCE_ATTRIBUTES: ",".join([*others, f"{_ARM}{arm}"])}


@contextmanager
def _configured(
    arm: Arm,
    asked: ArmsPlan,
    folder: Path,
    engine_driven: bool,
    progress: Callable[[str], None],
) -> Iterator[OwnServer]:
    """The server of an arm, with what it needs beside it running meanwhile."""
    # All arms hash alike: the study's setting, and LMCache's need.
    plain = replace(
        asked.server,
        flags=(*_FLAGS, *asked.server.flags, *arm.flags),
        python=asked.python(arm),
        env={**lmcache_server.ENVIRONMENT, **arm.env, **_named(arm.name)},
        roles=Roles(
            cores={role: parse_cores(cores) for role, cores in arm.cores.items()},
            nice=dict(arm.nice.items()),
        ),
    )
    if not arm.lmcache:
        yield plain
        return
    with LMCacheServer(
        asked.lmcache_gib,
        engine_driven=engine_driven,
        log_path=folder / "lmcache.log",
        python=plain.python,
        progress=progress,
    ) as cache:
        yield replace(plain, flags=(*cache.vllm_flags, *plain.flags))
        if not cache.running:
            raise CodesignError(
                f"LMCache ended during the run; see {cache.log_path}, then run the same "
                "command again"
            )


def _check_answers(arm: str, repeat: int, run: BenchRun, folder: Path) -> None:
    """A server that answered nothing is no repeat."""
    if any(row.status == "ok" for row in run.requests):
        return
    reasons: Sequence[str] = [row.error for row in run.requests if row.error]
    raise CodesignError(
        f"arm {arm}, repeat {repeat}: all {len(run.requests)} requests failed"
        f"{f' ({reasons[0]})' if reasons else ''}; see {folder / 'server.log'}"
    )
