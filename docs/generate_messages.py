"""Writes docs/messages.md: every line that the code may say when something is wrong.

They are read from the source, as arguments of what raises or logs: `make docs`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.markdown_text import code, table

PAGE = Path(__file__).with_name("messages.md")
PACKAGE = PAGE.parents[1] / "vllm_codesign"

_INTRODUCTION = """\
<!-- Written by docs/generate_messages.py from vllm_codesign; `make docs`. -->
# Messages

Every line that is said when something is wrong, as it stands in the code; `…` is what is filled
in. Each names its cause and, where there is one, the cure. What to do about the usual ones is in
[Troubleshooting](troubleshooting.md); bad values of variables are in
[Settings](settings.md#bad-values).
"""

_PLACES = (
    (
        "In the server's log, from vLLM's processes",
        ("plugin", "hooks", "recorder"),
        "After `codesign: `. The server always goes on.",
    ),
    (
        "In the server's log, from the exporter",
        ("exporter",),
        "On the server's stderr. Serving is not touched.",
    ),
    (
        "`codesign doctor`",
        ("cli/checks", "cli/host_checks", "cli/connector_checks", "cli/doctor"),
        "",
    ),
    (
        "Commands",
        ("cli", "micro", "report", "bench", "analysis", "backends", "store", "model"),
        "After `codesign: `, with exit status 1.",
    ),
)
"""Where a message is met, and the rooms that say it; the first that fits."""

_RAISED = {"CodesignError", "StoreError", "UsageError"}
_LOGGED = {"warning", "error", "exception", "critical"}
_LOGGERS = {"logger", "log"}
_GAP = "…"


@dataclass(frozen=True, slots=True)
class Message:
    """A line and the file that says it, relative to the package."""

    text: str
    file: str


def page() -> str:
    """The whole text of docs/messages.md."""
    parts = [_INTRODUCTION]
    left = messages()
    for title, prefixes, note in _PLACES:
        here = [each for each in left if each.file.startswith(prefixes)]
        left = [each for each in left if each not in here]
        rows = sorted({(code(each.file), _cell(each.text)) for each in here})
        parts += [f"## {title}\n", *([f"{note}\n"] if note else [])]
        parts += [*table(("said by", "line"), rows), ""]
    if left:
        raise ValueError(f"say in _PLACES where people meet what {left[0].file} says")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return code(text.removeprefix("codesign: "))


def messages() -> list[Message]:
    """All of them; those that are handed on as they came have no words of their own."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = str(file.relative_to(PACKAGE))
        for argument in _arguments(ast.parse(file.read_text(encoding="utf-8"))):
            text = re.sub(f"{_GAP}+", _GAP, " ".join(_text(argument).split()))
            if len(re.findall(r"[A-Za-z]{2,}", text)) >= 3:
                found.append(Message(text, name))
    return found


def _arguments(tree: ast.Module) -> Iterator[ast.expr]:
    """What is said: by what is raised, what is logged, and the findings of `doctor`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        on = getattr(called.value, "id", "") if isinstance(called, ast.Attribute) else ""
        if name in _RAISED or (name in _LOGGED and on in _LOGGERS):
            yield node.args[0]
        elif name == "Finding" and _text(node.args[0]) != "note":
            yield node.args[2]


def _text(node: ast.expr) -> str:
    """A string as it stands in the code, `…` for what is only known when it is said."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%[-.\d]*[a-z]", _GAP, text)
        case ast.JoinedStr(values=values):
            return "".join(map(_text, values))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
    return _GAP
