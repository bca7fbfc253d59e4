"""What would become of each row, found out without wrapping anything.

For `codesign doctor`, and for holding the tables against a version that is not installed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence

from vllm_codesign.hooks.installer import locate, missing_parameters, missing_status
from vllm_codesign.hooks.table import Hook, Outcome, Status

LookUp = Callable[[str], Sequence[str] | None]
"""Names of a target's parameters, in order; None where there is no such target."""


def signature_of(target: str) -> inspect.Signature | None:
    """Signature of a target whose module is imported; None where there is none."""
    module_name, _, path = target.partition(":")
    module = sys.modules.get(module_name)
    found = None if module is None else locate(module, path)
    if found is None:
        return None
    try:
        return inspect.signature(found[2])
    except (TypeError, ValueError):
        return inspect.Signature()  # it is there, and nothing can be read from it


def imported(target: str) -> Sequence[str] | None:
    """Looks a target up among the imported modules."""
    signature = signature_of(target)
    return None if signature is None else list(signature.parameters)


def resolve(table: str, hook: Hook, look_up: LookUp, version: str) -> Outcome:
    """The row's fate in vLLM `version`, as the installer would decide it."""
    outcome = Outcome(hook, table)
    for target in hook.targets:
        names = look_up(target)
        if names is None:
            continue
        problem = missing_parameters(hook.reads, names)
        outcome.target = target
        if not problem:
            outcome.status, outcome.detail = Status.INSTALLED, ""
            return outcome
        outcome.status, outcome.detail = Status.SIGNATURE_CHANGED, problem
    if outcome.status is Status.WAITING:
        outcome.status = missing_status(hook, version)
        outcome.detail = "none of its targets exists"
    return outcome
