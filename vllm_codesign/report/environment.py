"""How every page is made from its template."""

from __future__ import annotations

import time

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment() -> Environment:
    """Everything from a capture is escaped; a name that nobody gave is an error."""
    return Environment(
        loader=PackageLoader("vllm_codesign.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def utc(unix_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_ns // 1_000_000_000))
