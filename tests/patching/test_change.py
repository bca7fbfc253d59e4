"""Applying and reverting beyond the plain case, which tests/cli/test_patch.py has."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.patching.example import A0, A1, A2, AFTER, B0, B1, BEFORE, FIRST, NEW, A, B
from tests.support import patches
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.patching.catalog import shipped as all_shipped
from vllm_codesign.patching.change import Outcome, apply, revert
from vllm_codesign.patching.installation import find
from vllm_codesign.patching.kept import FOLDER, Kept
from vllm_codesign.patching.state import State, states

NOBODY = 65_534


def do_apply(number: int = 0) -> Outcome:
    found = all_shipped()
    return apply(find(), found[number], found)


def do_revert(number: int = 0) -> Outcome:
    found = all_shipped()
    return revert(find(), found[number], found)


def told() -> list[State]:
    return [each.state for each in states(find(), all_shipped())]


def refused(do: object, *arguments: int) -> str:
    with pytest.raises(CodesignError) as raised:
        do(*arguments)  # type: ignore[operator]
    (line,) = str(raised.value).splitlines()
    return line


def test_apply_and_revert_leave_all_as_it_was(site: Path) -> None:
    before = patches.contents(site)
    (site / A).chmod(0o664)
    modes = [(site / path).stat().st_mode for path in (A, B)]
    assert [change.path for change in do_apply().done] == [A, B, NEW]
    assert (site / A).read_text() == A1
    assert (site / B).read_text() == B1
    assert (site / NEW).read_text() == AFTER[NEW]
    assert not (site / "tests").exists()
    assert [(site / path).stat().st_mode for path in (A, B)] == modes
    assert (site / NEW).stat().st_mode & 0o777 == (site / "vllm/sub").stat().st_mode & 0o666
    assert do_apply().done == ()
    assert [change.path for change in do_revert().done] == [NEW, B, A]
    assert patches.contents(site) == before
    assert do_revert().done == ()
    assert [(site / path).stat().st_mode for path in (A, B)] == modes


def test_a_file_that_other_environments_share_by_a_hard_link_stays(
    site: Path, tmp_path: Path
) -> None:
    # uv links from its cache, and from there into every environment.
    os.link(site / A, tmp_path / "cache")
    do_apply()
    assert (tmp_path / "cache").read_text() == A0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owner_is_kept(site: Path) -> None:
    os.chown(site / A, NOBODY, NOBODY)
    do_apply()
    assert ((site / A).stat().st_uid, (site / B).stat().st_uid) == (NOBODY, 0)


def test_without_what_was_kept_a_patch_is_taken_back_from_the_file(site: Path) -> None:
    do_apply()
    for file in (site / FOLDER).rglob("*"):
        if file.parent.name == "originals":
            file.write_text("broken")
    do_revert()
    assert (site / A).read_text() == A0
    do_apply()
    subprocess.run(["rm", "-r", site / FOLDER], check=True)
    do_revert()
    assert (site / B).read_text() == B0
    assert not (site / NEW).exists()


def test_a_patch_that_is_shipped_no_more_is_reverted_by_what_was_kept(
    site: Path, shipped: Path
) -> None:
    do_apply()
    newer = patches.mail({A: A0}, {A: A2}, "A newer edition")
    patches.write(shipped, FIRST, newer)
    assert refused(do_apply) == (
        f"{site / A} holds another patch or edition, {FIRST}: codesign patch revert {FIRST} first"
    )
    of_old = [each for each in states(find(), all_shipped()) if each.patch.earlier]
    assert [each.state for each in of_old] == [State.APPLIED]
    revert(find(), of_old[0].patch, all_shipped())
    assert (site / B).read_text() == B0
    do_apply()
    assert (site / A).read_text() == A2
    assert told() == [State.APPLIED]


def test_what_was_kept_of_a_vllm_that_was_replaced_goes(site: Path) -> None:
    do_apply()
    for path in (A, B):
        (site / path).write_text(f"{BEFORE[path]}")
    (site / NEW).unlink()
    assert told() == [State.NOT_APPLIED]
    assert Kept(site).folder.is_dir()
    do_revert()
    assert not Kept(site).folder.exists()


def test_one_patch_on_top_of_another(site: Path, second: str) -> None:
    assert refused(do_apply, 1) == (
        f"{second} builds on {FIRST}, which is not applied: codesign patch apply {FIRST}, or --all"
    )
    assert told() == [State.NOT_APPLIED, State.NOT_APPLIED]
    do_apply(0)
    do_apply(1)
    assert (site / A).read_text() == A2
    assert told() == [State.APPLIED, State.APPLIED]
    assert do_apply(0).done == ()
    assert refused(do_revert, 0) == (
        f"{second} builds on {FIRST}: codesign patch revert {second} first"
    )
    do_revert(1)
    assert told() == [State.APPLIED, State.NOT_APPLIED]
    do_revert(0)
    assert (site / A).read_text() == A0
    assert not Kept(site).folder.exists()


@pytest.mark.parametrize("applied", [False, True])
def test_a_changed_file(site: Path, applied: bool) -> None:
    if applied:
        do_apply()
    (site / B).write_text("mine = 1\n")
    before = patches.contents(site)
    assert told() == [State.CHANGED]
    for do in (do_apply, do_revert):
        line = refused(do)
        assert line.startswith(f"{site / B} was changed by somebody else: its blob is ")
        assert line.endswith("reinstall vLLM 0.19.0")
    assert patches.contents(site) == before


def test_a_missing_file(site: Path) -> None:
    (site / B).unlink()
    assert told() == [State.MISSING]
    assert refused(do_apply) == f"{site / B} is missing: reinstall vLLM 0.19.0"
    assert (site / A).read_text() == A0


def test_a_file_that_changes_in_between(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def while_it_works(source: Path, target: Path) -> None:
        if target.name == "a.py":
            (site / B).write_text("mine = 1\n")
        real(source, target)

    monkeypatch.setattr(os, "replace", while_it_works)
    assert refused(do_apply) == (
        f"{site / B} was changed meanwhile; some files are changed already: mend that, then apply "
        "or revert again"
    )
    assert (site / B).read_text() == "mine = 1\n"
    assert (site / A).read_text() == A1
    assert not list(site.rglob(".*.codesign"))


SHOW = "import sys; from vllm import a; from vllm.sub import b; print(a.two, b.b())"


def run(site: Path) -> str:
    command = [sys.executable, "-S", "-c", SHOW]
    environment = {"PYTHONPATH": str(site)}
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_new_interpreter_sees_the_new_code_at_once(site: Path) -> None:
    """b.py is as long before as after: its time alone tells bytecode that it is of another."""
    assert len(B0) == len(B1)
    for _ in range(3):
        assert run(site) == "2 old"
        do_apply()
        assert run(site) == "22 new"
        do_revert()
    assert run(site) == "2 old"


def test_bytecode_elsewhere_is_told_by_the_time(site: Path) -> None:
    """PYTHONPYCACHEPREFIX puts it where we do not look; seconds are all it knows."""
    times = [int((site / B).stat().st_mtime)]
    os.utime(site / B, (time.time() + 60, time.time() + 60))
    for do in (do_apply, do_revert, do_apply, do_revert):
        do()
        times.append(int((site / B).stat().st_mtime))
    assert times == sorted(set(times))


def _try(barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        results.put(len(do_apply().done))  # type: ignore[attr-defined]
    except CodesignError as error:
        results.put(str(error))  # type: ignore[attr-defined]


def test_several_at_once(site: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        barrier, results = context.Barrier(4), context.Queue()
        children = [context.Process(target=_try, args=(barrier, results)) for _ in range(4)]
        for child in children:
            child.start()
        said = [results.get(timeout=30) for _ in children]
        for child in children:
            child.join()
        assert said.count(3) == 1
        busy = f"another codesign patch is at work in {site}: try again when it is done"
        assert set(said) <= {3, 0, busy}
        assert told() == [State.APPLIED]
        do_revert()
        assert (site / A).read_text() == A0


def test_while_another_is_at_work(site: Path) -> None:
    before = patches.contents(site)
    with Kept(site).lock():
        assert refused(do_apply) == (
            f"another codesign patch is at work in {site}: try again when it is done"
        )
    assert patches.contents(site) == before


def _as_nobody(site: Path, results: object) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    results.put((refused(do_apply), told()[0]))  # type: ignore[attr-defined]


@pytest.mark.parametrize("locked", ["", "vllm/sub"])
def test_a_folder_that_is_not_writable(site: Path, locked: str) -> None:
    if os.geteuid() != 0:
        (site / locked).chmod(0o555)
        try:
            line, state = refused(do_apply), told()[0]
        finally:
            (site / locked).chmod(0o755)
    else:
        # Root may write anywhere: somebody who owns all but that folder, and can reach it.
        for folder in (*site.rglob("*"), site):
            os.chown(folder, NOBODY, NOBODY)
        os.chown(site / locked, 0, 0)
        closed = {each: each.stat().st_mode for each in site.parents}
        closed = {each: mode for each, mode in closed.items() if not mode & 0o001}
        for parent, mode in closed.items():
            parent.chmod(mode | 0o001)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        child = context.Process(target=_as_nobody, args=(site, results))
        child.start()
        line, state = results.get(timeout=30)
        child.join()
        for parent, mode in closed.items():
            parent.chmod(mode)
    assert line == (
        f"{site / locked} is not writable: run this as the user who installed vLLM, where its "
        "files can be changed"
    )
    assert state is State.NOT_APPLIED
    assert (site / A).read_text() == A0
    assert not (site / FOLDER).exists()
