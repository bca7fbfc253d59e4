"""Killed before, in and after every call that writes: files stay whole, and both ways lead out."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import marshal
import os
import py_compile
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.patching.example import A0, AFTER, BEFORE, FIRST, NEW, A, B
from tests.support import patches
from vllm_codesign.cli.main import main
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.patching.catalog import shipped as all_shipped
from vllm_codesign.patching.change import apply, revert
from vllm_codesign.patching.durable import leftover
from vllm_codesign.patching.installation import find
from vllm_codesign.patching.kept import FOLDER
from vllm_codesign.patching.state import State, states

CALLS = (
    "open",
    "write",
    "replace",
    "rename",
    "fsync",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
    "fchmod",
    "fchown",
    "chmod",
    "chown",
    "link",
    "symlink",
    "utime",
    "ftruncate",
    "truncate",
)
INSTALLED = (A, B, NEW)
OLD = {path: BEFORE[path] for path in INSTALLED}
NEW_ = {path: AFTER[path] for path in INSTALLED}

Do = Callable[[], None]


class Calls:
    """Counts the calls of `os` that write, and does something before or after the n-th."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, what: Do) -> None:
        self.names: list[str] = []
        self._at = at
        self._what = what
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            if name == "open" and not int(args[1]) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):  # type: ignore[call-overload]
                return real(*args, **options)
            self._step(f"before {name}")
            if name == "write":
                # The machine may stop with half of it on the disk.
                handle, content = args
                size = len(content)  # type: ignore[arg-type]
                half = real(handle, bytes(content)[: size // 2 if size > 30 else size])  # type: ignore
                self._step("in write")
                return half
            done = real(*args, **options)
            self._step(f"after {name}")
            return done

        return call

    def _step(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 == self._at:
            self._what()


def do_apply() -> None:
    found = all_shipped()
    apply(find(), found[0], found)


def do_revert() -> None:
    found = all_shipped()
    revert(find(), found[0], found)


def steps(do: Do) -> list[str]:
    """Every call that writes, by a run that is not killed."""
    with pytest.MonkeyPatch.context() as patch:
        calls = Calls(patch, -1, lambda: None)
        do()
    return calls.names


def killed(do: Do, at: int) -> bool:
    """Whether a child was killed at its step `at`; False where it ended before."""
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                Calls(patch, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
                do()
        except BaseException:  # noqa: BLE001 - a forked child must never return into pytest
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def found_files(site: Path) -> dict[str, str | None]:
    return {p: (site / p).read_text() if (site / p).exists() else None for p in INSTALLED}


def whole(site: Path) -> State:
    """Each file old or new, the state told in accordance; returns the state."""
    files = found_files(site)
    for path, text in files.items():
        assert text in (OLD[path], NEW_[path]), path
    # In the patch's order there and in the opposite order back: new ones before old ones.
    new = [text == NEW_[path] for path, text in files.items()]
    assert new == sorted(new, reverse=True)
    no_stale_bytecode(site)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        assert main(["patch", "status"]) == 0
    (line,) = (each for each in told.getvalue().splitlines() if each.startswith(FIRST))
    (state,) = states(find(), all_shipped())
    if files == OLD:
        assert state.state is State.NOT_APPLIED
        assert line == f"{FIRST}: not applied"
    elif files == NEW_:
        assert state.state is State.APPLIED
        assert line == f"{FIRST}: applied"
    else:
        assert state.state is State.PARTLY
        assert line.startswith(f"{FIRST}: partly applied, a run was interrupted")
    return state.state


def clean(site: Path, applied: bool) -> None:
    """The files as wanted, nothing else in vllm/, and kept what a revert needs and no more."""
    assert found_files(site) == (NEW_ if applied else OLD)
    names = {name for name in patches.contents(site) if ".dist-info" not in name}
    kept = {name for name in names if name.startswith(FOLDER)}
    wanted = {"vllm", "vllm/sub", "vllm/__init__.py", A, B} | ({NEW} if applied else set())
    assert names - kept == wanted
    files = {name for name in kept if (site / name).is_file()}
    if applied:
        assert f"{FOLDER}/vllm-0.19.0/{FIRST}.patch" in files
        assert len([name for name in files if "/originals/" in name]) == 2
    assert (len(files), len(kept)) == ((4, 7) if applied else (0, 0))
    no_stale_bytecode(site)


def no_stale_bytecode(site: Path) -> None:
    """What an interpreter would take without asking is of the source that is there."""
    for path, text in found_files(site).items():
        for file in (site / path).parent.glob(f"__pycache__/{Path(path).stem}.*.pyc"):
            assert text is not None
            assert marshal.loads(file.read_bytes()[16:]) == compile(
                text, path, "exec", dont_inherit=True
            )


def compile_all(site: Path) -> None:
    """Bytecode that Python would never check against its source."""
    for path in INSTALLED:
        if (site / path).exists():
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(site / path), invalidation_mode=mode, doraise=True)


@pytest.fixture
def ram() -> Iterator[Path]:
    """A folder where hundreds of fsyncs take no time, if there is one."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


def fresh(ram: Path, monkeypatch: pytest.MonkeyPatch, number: str, applied: bool) -> Path:
    folder = patches.install(ram / number, {A: A0, B: BEFORE[B]})
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path[1:]])
    importlib.invalidate_caches()
    if applied:
        do_apply()
    compile_all(folder)
    return folder


AUDITED = ("rename", "remove", "mkdir", "rmdir", "chmod", "chown", "utime", "truncate", "link")
_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def test_no_write_goes_another_way(site: Path) -> None:
    """The interpreter itself says of each call that writes, whoever makes it."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(_unseen(site))
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _unseen(site: Path) -> int:
    """How many writes below `site` were made by none of the calls that are counted."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            if isinstance(arguments[2], int) and arguments[2] & _WRITE:
                seen.append("open")
        elif event.removeprefix("os.") in AUDITED:
            seen.append(event)

    sys.addaudithook(hook)
    counted = 0
    for do in (do_apply, do_revert):
        names = steps(do)
        # The interpreter has no word of these two.
        told = (name for name in CALLS if name not in ("write", "fsync"))
        counted += sum(names.count(f"before {name}") for name in told)
    return 0 if counted > 20 and len(seen) == counted else 98


@pytest.mark.parametrize("then", ["apply", "revert"])
@pytest.mark.parametrize("first", ["apply", "revert"])
def test_killed_at_every_write(
    site: Path, ram: Path, monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> None:
    ways = {"apply": do_apply, "revert": do_revert}
    seen = set()
    for at in itertools.count():
        folder = fresh(ram, monkeypatch, f"{at}", applied=first == "revert")
        if not killed(ways[first], at):
            break
        seen.add(whole(folder))
        ways[then]()
        clean_or_tidied(folder, then)
        do_revert()
        clean(folder, applied=False)
    assert seen == {State.NOT_APPLIED, State.PARTLY, State.APPLIED}
    # Three files each prepared, renamed and made to last, what is kept, and the lock.
    assert at > 40


def clean_or_tidied(folder: Path, then: str) -> None:
    if then == "apply":
        # Where the killed run had gone through, there was nothing left to do.
        assert found_files(folder) == NEW_
        assert not [
            leftover(folder / path) for path in INSTALLED if leftover(folder / path).exists()
        ]
    else:
        clean(folder, applied=False)


def test_a_run_that_is_not_killed(site: Path) -> None:
    applied = steps(do_apply)
    clean(site, applied=True)
    # What is on the disk is made to last before a name leads to it, and the name afterwards.
    replaced = [n for n, name in enumerate(applied) if name == "before replace"]
    assert len(replaced) == 3 + 3  # two originals, the patch; three files
    for n in replaced:
        assert "after fsync" in applied[:n]
        assert applied[n + 1 : n + 3] == ["after replace", "before fsync"]
    assert steps(do_apply) == []
    steps(do_revert)
    clean(site, applied=False)
    assert steps(do_revert) == []


@pytest.mark.parametrize("first", ["apply", "revert"])
def test_a_write_that_fails_at_every_call(
    site: Path, ram: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """A full or broken disk: one line, no leftover, and afterwards both ways lead out."""

    def full() -> None:
        raise OSError(28, "No space left on device")

    ways = {"apply": do_apply, "revert": do_revert}
    said = set()
    for at in itertools.count():
        folder = fresh(ram, monkeypatch, f"{at}", applied=first == "revert")
        with pytest.MonkeyPatch.context() as patch:
            calls = Calls(patch, at, full)
            try:
                ways[first]()
            except CodesignError as error:
                (line,) = str(error).splitlines()
                assert "No space left on device" in line
                said.add(line.partition(";")[2])
                if "as they were" in line:
                    assert found_files(folder) == (NEW_ if first == "revert" else OLD)
        whole(folder)
        if len(calls.names) <= at:
            break
        do_apply()
        assert found_files(folder) == NEW_
        do_revert()
        clean(folder, applied=False)
    assert any("are as they were" in each for each in said)
    assert any("are changed already" in each for each in said)
