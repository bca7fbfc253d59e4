"""Files of OTLP as JSON: the Collector's file exporter, one document a line, or one in all.

What Jaeger's and Tempo's query APIs answer, saved to a file, is read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_codesign.backends import jaeger_legacy, otlp_json
from vllm_codesign.backends.collected import Collected, Found
from vllm_codesign.backends.query import Query
from vllm_codesign.model.errors import CodesignError

_WRAPPERS = ("result", "trace")
"""Of Jaeger's API v3 and Tempo's v2."""
_OTHER_SIGNALS = ("resourceMetrics", "resourceLogs", "resourceProfiles")


def read(path: str, query: Query, into: Collected) -> None:
    """Take every span of the file: which requests are meant is seen when they are read."""
    try:
        for document, where in _documents(Path(path), into):
            into.take(_spans(document, where))
    except UnicodeDecodeError as error:
        raise CodesignError(
            f"{path} is no text: set the file exporter's `format: json` and no `compression`"
        ) from error
    except OSError as error:
        raise CodesignError(f"cannot read {path}: {error.strerror}") from error
    if not into.roots:
        raise CodesignError(_nothing(path, into))


def _documents(path: Path, into: Collected) -> Iterator[tuple[dict[str, Any], str]]:
    with path.open(encoding="utf-8-sig") as lines:
        first = lines.readline()
        try:
            whole = json.loads(first)
        except (ValueError, RecursionError):
            whole = None
        if whole is None:
            # Indented, as `jq` and people write it, or damaged.
            yield _whole(first + lines.read(), path), str(path)
            return
        yield _document(whole, f"{path}, line 1"), f"{path}, line 1"
        for number, line in enumerate(lines, 2):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                document = json.loads(line)
            except RecursionError as error:
                raise CodesignError(f"{where} is no OTLP JSON: it is too deep") from error
            except ValueError as error:
                if line.endswith("\n"):
                    raise CodesignError(f"{where} is no JSON: {error}") from error
                # Its writer is at it, or was killed.
                into.note(f"{where}, the last one, is cut and left out")
                return
            yield _document(document, where), where


def _whole(text: str, path: Path) -> dict[str, Any]:
    try:
        return _document(json.loads(text), str(path))
    except RecursionError as error:
        raise CodesignError(f"{path} is no OTLP JSON: it is too deep") from error
    except ValueError as error:
        raise CodesignError(
            f"{path} is no JSON: {error}; one OTLP document a line is expected, or one in all"
        ) from error


def _document(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CodesignError(f"{where} is no OTLP JSON: an object with `resourceSpans` is expected")
    return value


def _spans(document: dict[str, Any], where: str) -> Iterator[Found]:
    if isinstance(document.get("data"), list):
        return jaeger_legacy.spans_of(document, where)
    for wrapper in _WRAPPERS:
        if isinstance(inner := document.get(wrapper), dict):
            document = inner
            break
    known = ("resourceSpans", *_OTHER_SIGNALS)
    if document and not any(key in document for key in known):
        raise CodesignError(f"{where} is no OTLP JSON: an object with `resourceSpans` is expected")
    return otlp_json.spans_of(document, where)


def _nothing(path: str, into: Collected) -> str:
    if into.spans:
        return (
            f"{path} has {into.spans:,} spans of vllm-codesign but no whole request: it was cut, "
            "or the rest is in another file"
        )
    others = ", ".join(sorted(into.foreign)) or "none at all"
    return f"{path} has no span of vllm-codesign, but of: {others}"
