"""What a name is declared as: an attribute, a kind of span, a series."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_codesign.semconv.service import Service


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its key, the type of its value, unit and meaning."""

    key: str
    type: str  # "string", "int", "double", "boolean", "string[]", "int[]", "double[]"
    brief: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class SpanKind:
    """One kind of span: where it starts and ends, and the attributes it may carry."""

    name: str
    service: Service
    starts: str
    ends: str
    attributes: tuple[Attribute, ...] = ()
    aggregate: bool = False
    """True where the span stands for many short stretches of the stream it covers."""


@dataclass(frozen=True, slots=True)
class Series:
    """One sampled figure of a capture's `series/`."""

    name: str
    unit: str
    """As UCUM writes it: `1` for a share, `By`, `W`, `Cel`, `{step}`."""
    brief: str
    attributes: tuple[Attribute, ...] = ()
