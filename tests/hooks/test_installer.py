"""Rows are resolved, wrapped on import, reported and undone."""

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest

from vllm_codesign.hooks.installer import Installer, import_targets
from vllm_codesign.hooks.table import Hook, Status
from vllm_codesign.hooks.wrap import constructed

WriteModule = Callable[[str, str], None]

SOURCE = """
class A:
    def __init__(self):
        self.calls = []
    def f(self, x, y=2, *, z=3):
        return (x, y, z)
class B(A):
    pass
def g(x):
    return x + 1
"""

seen: list[Any] = []


@pytest.fixture(autouse=True)
def _forget_what_was_seen() -> None:
    seen.clear()


def row(*paths: str, name: str = "m", reads: tuple[str, ...] = ("x",), **more: Any) -> Hook:
    targets = tuple(f"codesign_fake_{name}:{path}" for path in paths)
    return Hook(
        more.pop("id", "a.row"), targets, constructed(lambda *v: seen.append(v)), reads, **more
    )


def install(*hooks: Hook) -> Installer:
    installer = Installer()
    installer.install("t", hooks)
    return installer


def load(name: str = "m") -> Any:
    return importlib.import_module(f"codesign_fake_{name}")


def test_waits_for_the_import(module: WriteModule) -> None:
    module("m", SOURCE)
    (outcome,) = install(row("A.f")).outcomes
    assert outcome.status is Status.WAITING
    assert "codesign_fake_m" not in sys.modules
    m = load()
    assert (outcome.status, outcome.target) == (Status.INSTALLED, "codesign_fake_m:A.f")
    assert m.A().f(1, z=9) == (1, 2, 9)
    assert seen == [(1,)]


def test_wraps_at_once_what_is_imported(module: WriteModule) -> None:
    module("m", SOURCE)
    m = load()
    (outcome,) = install(row("g")).outcomes
    assert outcome.status is Status.INSTALLED
    assert m.g(4) == 5
    assert seen == [(4,)]


def test_a_module_that_is_being_imported_is_waited_for(module: WriteModule) -> None:
    """Plugins may be loaded while a module of theirs is half way; its names come later."""
    module("n", "")
    module(
        "m",
        "import sys; from tests.hooks import test_installer as t\n"
        "t.seen.append(t.install(t.row('A.f')))\n" + SOURCE,
    )
    load()
    outcome = seen.pop().outcomes[0]
    assert outcome.status is Status.WAITING
    install(row("nothing", name="n"))
    load("n")
    assert outcome.status is Status.WAITING, "another installer's import says nothing to this one"


def test_a_half_imported_module_is_taken_up_with_the_next_import(module: WriteModule) -> None:
    module("n", "def h(x): return x\n")
    module(
        "m",
        "from tests.hooks import test_installer as t\n"
        "t.seen.append(t.install(t.row('A.f', id='m'), t.row('h', name='n', id='n')))\n" + SOURCE,
    )
    m = load()
    half, later = seen.pop().outcomes
    assert (half.status, later.status) == (Status.WAITING, Status.WAITING)
    load("n")
    assert (half.status, later.status) == (Status.INSTALLED, Status.INSTALLED)
    assert m.A().f(7) == (7, 2, 3)
    assert seen == [(7,)]


def test_missing_method(module: WriteModule) -> None:
    module("m", SOURCE)
    (outcome,) = install(row("A.nope", "Nope.f", "nope", "A.f.g")).outcomes
    load()
    assert outcome.as_dict() == {
        "id": "a.row",
        "table": "t",
        "status": "missing",
        "target": "",
        "detail": "not in codesign_fake_m",
        "required": True,
    }


def test_an_inherited_method_does_not_count(module: WriteModule) -> None:
    module("m", SOURCE)
    (outcome,) = install(row("B.f")).outcomes
    m = load()
    assert outcome.status is Status.MISSING
    assert m.A.__dict__["f"] is inspect.unwrap(m.A.f)


def test_signature_changed(module: WriteModule) -> None:
    module("m", SOURCE)
    (outcome,) = install(row("A.f", reads=("x", "request"))).outcomes
    m = load()
    assert outcome.status is Status.SIGNATURE_CHANGED
    assert outcome.target == "codesign_fake_m:A.f"
    assert outcome.detail == "no parameter request in (self, x, y, z)"
    assert not hasattr(m.A.f, "__codesign__")


def test_second_choice_where_the_first_has_changed(module: WriteModule) -> None:
    module("m", SOURCE)
    (outcome,) = install(row("A.__init__", "A.f")).outcomes
    load()
    assert (outcome.status, outcome.target) == (Status.INSTALLED, "codesign_fake_m:A.f")
    assert outcome.detail == ""


@pytest.mark.parametrize(
    ("versions", "foreign", "status"),
    [
        (("0.1", "0.2"), False, Status.VERSION_SKIPPED),
        (("99", ""), False, Status.VERSION_SKIPPED),
        (("0.1", "0.2"), True, Status.MISSING),
        (("0.19", ""), False, Status.MISSING),
    ],
)
def test_version_skipped(
    module: WriteModule,
    monkeypatch: pytest.MonkeyPatch,
    versions: tuple[str, str],
    foreign: bool,
    status: Status,
) -> None:
    monkeypatch.setattr("vllm_codesign.hooks.installer.vllm_version", lambda: "0.32.0+cpu")
    module("m", SOURCE)
    (outcome,) = install(row("A.nope", versions=versions, foreign=foreign)).outcomes
    load()
    assert outcome.status is status


def test_the_signature_goes_before_the_version(module: WriteModule) -> None:
    module("m", SOURCE)
    (outcome,) = install(row("A.f", versions=("99", ""))).outcomes
    load()
    assert outcome.status is Status.INSTALLED


def test_a_broken_module_stays_as_broken_as_it_was(module: WriteModule) -> None:
    # A name of its own: the registration outlives the failed import.
    module("broken", "raise RuntimeError('no GPU')")
    hook = row("A.f", name="broken")
    (outcome,) = install(hook).outcomes
    with pytest.raises(RuntimeError, match="no GPU"):
        load("broken")
    assert outcome.status is Status.WAITING
    assert import_targets([hook]) == {"codesign_fake_broken": "RuntimeError: no GPU"}


@pytest.mark.usefixtures("lenient")
def test_what_goes_wrong_in_ours_does_not_break_an_import(module: WriteModule) -> None:
    def make(*_: Any) -> Any:
        raise ValueError("ours")

    module("m", SOURCE)
    hook = Hook("a.row", ("codesign_fake_m:A.f",), make)
    (outcome,) = install(hook).outcomes
    assert load().A().f(1) == (1, 2, 3)
    assert (outcome.status, outcome.detail) == (Status.MISSING, "ValueError: ours")


def test_installing_twice_wraps_once(module: WriteModule) -> None:
    module("m", SOURCE)
    first, second = install(row("g")), install(row("g"))
    m = load()
    assert [o.status for i in (first, second) for o in i.outcomes] == [Status.INSTALLED] * 2
    m.g(1)
    assert seen == [(1,)]
    assert not hasattr(m.g.__wrapped__, "__wrapped__")


def test_each_outcome_is_reported_once(module: WriteModule) -> None:
    module("m", SOURCE)
    changes: list[list[Status]] = []
    installer = Installer(lambda: changes.append([o.status for o in installer.outcomes]))
    installer.install("t", [row("A.f", id="one"), row("nope", id="two")])
    assert changes == []
    load()
    assert changes == [
        [Status.INSTALLED, Status.WAITING],
        [Status.INSTALLED, Status.MISSING],
    ]


@pytest.mark.usefixtures("lenient")
def test_a_report_that_fails_does_not_change_the_outcome(module: WriteModule) -> None:
    module("m", SOURCE)

    def broken() -> None:
        raise RuntimeError("no report")

    installer = Installer(broken)
    installer.install("t", [row("g")])
    load().g(1)
    assert seen == [(1,)]
    assert installer.outcomes[0].status is Status.INSTALLED
