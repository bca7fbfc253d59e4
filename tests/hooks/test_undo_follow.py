"""Hooks put back, and hooks moved to the class that overrides a method."""

from collections.abc import Callable

import pytest

from tests.hooks.test_installer import SOURCE, install, load, row, seen
from vllm_codesign.hooks.table import Status

WriteModule = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def _forget_what_was_seen() -> None:
    seen.clear()


def test_undo_puts_the_originals_back(module: WriteModule) -> None:
    module("m", SOURCE)
    m = load()
    before = (m.A.__dict__["f"], m.g)
    installer = install(row("A.f", id="one"), row("g", id="two"))
    assert m.g is not before[1]
    assert installer.undo() == 2
    assert (m.A.__dict__["f"], m.g) == before
    assert {o.status for o in installer.outcomes} == {Status.DISABLED}
    assert installer.undo() == 0


def test_undo_leaves_what_was_laid_over_ours(module: WriteModule) -> None:
    module("m", SOURCE)
    m = load()
    installer = install(row("A.f", id="one"), row("g", id="two"))
    ours = m.g

    def theirs(x: int) -> int:
        result: int = ours(x)
        return result * 10

    m.g = theirs
    assert installer.undo() == 1
    assert m.g is theirs
    assert m.g(1) == 20
    one, two = installer.outcomes
    assert (one.status, two.status) == (Status.DISABLED, Status.INSTALLED)


def test_undo_holds_for_what_is_imported_later(module: WriteModule) -> None:
    module("m", SOURCE)
    installer = install(row("g"))
    assert installer.undo() == 0
    assert not hasattr(load().g, "__codesign__")
    assert installer.outcomes[0].status is Status.DISABLED


def test_follow_moves_the_hook_to_an_override(module: WriteModule) -> None:
    module("m", SOURCE + "class C(B):\n    def f(self, y, x):\n        return super().f(x, y)\n")
    installer = install(row("A.f"))
    m = load()
    installer.follow(m.B())
    assert installer.outcomes[0].target == "codesign_fake_m:A.f"
    installer.follow(m.C())
    assert m.C().f(1, x=2) == (2, 1, 3)
    assert seen == [(2,)], "once, although the override calls the base"
    assert installer.outcomes[0].target == "codesign_fake_m:C.f"
    assert installer.undo() == 1
    assert not hasattr(m.C.f, "__codesign__")


def test_follow_leaves_an_override_that_it_cannot_read(module: WriteModule) -> None:
    module("m", SOURCE + "class C(A):\n    def f(self, *args):\n        return super().f(*args)\n")
    installer = install(row("A.f"))
    m = load()
    installer.follow(m.C())
    assert m.C().f(5) == (5, 2, 3)
    assert seen == [(5,)], "the base is still hooked"
    assert "C.f overrides it: no parameter x" in installer.outcomes[0].detail
