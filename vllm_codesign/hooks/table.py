"""A row of a hook table, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Wrapper = Callable[..., Any]


class Status(StrEnum):
    """What became of a row in this process."""

    INSTALLED = "installed"
    MISSING = "missing"  # no candidate exists
    SIGNATURE_CHANGED = "signature_changed"  # it exists, but lacks a parameter we read
    VERSION_SKIPPED = "version_skipped"  # missing, and not expected in this version
    DISABLED = "disabled"  # CODESIGN_LEVEL=off
    WAITING = "waiting"  # its module is not imported here (yet)


@dataclass(frozen=True, slots=True)
class Hook:
    """One method to wrap.

    `targets` are `module:Class.method` or `module:function`, in order of preference: the
    first that exists in an imported module is wrapped. `reads` names the parameters that
    the advice gets, in that order, after the call's times and result; parameters are
    looked up by name in the target's signature, never by position. `make` turns the
    original into the wrapper (see `wrap.py`).
    """

    id: str
    targets: tuple[str, ...]
    make: Callable[[Callable[..., Any], tuple[Getter, ...]], Wrapper]
    reads: tuple[str, ...] = ()
    versions: tuple[str, str] = ("0.19", "")
    """First version with this target, and the first without it again; a hint, no more."""
    required: bool = True
    """Whether the request trace needs it: `doctor` fails where such a row cannot be installed."""
    foreign: bool = False
    """The target belongs to a library beside vLLM, whose version says nothing here."""


Getter = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""Fetches one argument from a call's positional and keyword arguments."""


@dataclass(slots=True)
class Outcome:
    """A row's fate, for `run.json` and `doctor`."""

    hook: Hook
    table: str
    status: Status = Status.WAITING
    target: str = ""
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.hook.id,
            "table": self.table,
            "status": self.status.value,
            "target": self.target,
            "detail": self.detail,
            "required": self.hook.required,
        }
