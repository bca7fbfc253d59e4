"""What the connector hooks remember: the connectors of this process, transfers of a request.

A connector has a number in its process, from 1. One that another connector calls
(`MultiConnector`) is told with the number of its caller, which is whoever is being called when
it is called itself.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import CONNECTOR_BITS, Kind, KVFlag

_MOST = (1 << CONNECTOR_BITS) - 1
_U31_MAX = (1 << 31) - 1


class Connectors:
    """The instances in this process and who of them is being called."""

    __slots__ = ("calls", "names", "numbers")

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        """By id: a connector lives as long as its process."""
        self.names: list[str] = []
        self.calls: list[int] = []

    def add(self, connector: Any) -> None:
        """Give it a number; beyond `_MOST` it has none, and nothing is told of it."""
        self.numbers.pop(id(connector), None)  # of one that is gone
        if len(self.names) < _MOST:
            self.names.append(type(connector).__name__)
            self.numbers[id(connector)] = len(self.names)

    def reset(self) -> None:
        """In a forked child, and in tests."""
        self.numbers.clear()
        self.names.clear()
        self.calls.clear()

    def caller(self) -> int:
        """Number of the connector that is being called; 0 where vLLM itself calls."""
        return self.calls[-1] if self.calls else 0


CONNECTORS = Connectors()
os.register_at_fork(after_in_child=CONNECTORS.calls.clear)


class Lookup:
    """One connector's answers to what it has of a request."""

    __slots__ = (
        "asked",
        "asynchronous",
        "calls",
        "computed",
        "end",
        "hit",
        "ns",
        "pending",
        "start",
    )

    def __init__(self) -> None:
        self.start = self.end = self.ns = self.calls = self.asked = self.hit = 0
        self.computed = 0
        """Tokens that the request had when it was asked, found in the device's cache."""
        self.asynchronous = self.pending = False

    def emit(self, key: int, connector: int) -> None:
        active.emit(
            Kind.KV_LOOKUP,
            key,
            self.start,
            self.end,
            self.asked << 32 | self.hit,
            self.ns,
            self.calls,
            connector | (KVFlag.PENDING if self.pending else 0),
        )


class Stored:
    """What one connector was told to store of a request."""

    __slots__ = ("blocks", "first", "kept", "last", "step", "tokens")

    def __init__(self, at: int) -> None:
        self.first = self.last = at
        self.tokens = self.blocks = self.step = 0
        self.kept = False
        """The connector still needs the blocks when the request is over."""

    def emit(self, key: int, connector: int, block_bytes: int) -> None:
        active.emit(
            Kind.KV_STORE,
            key,
            self.first,
            self.last,
            min(self.tokens, _U31_MAX) << 32 | min(self.blocks, _U31_MAX),
            self.step,
            block_bytes,
            connector | (KVFlag.ASYNCHRONOUS if self.kept else 0),
        )


class Transfers:
    """Of one request, by the connector's word in a record: its number, its caller's above it."""

    __slots__ = ("before", "key", "loading", "lookups", "named", "stores")

    def __init__(self, key: int) -> None:
        self.key = key
        self.lookups: dict[int, Lookup] = {}
        self.stores: dict[int, Stored] = {}
        self.named: set[int] = set()
        self.before = self.loading = 0
        """Of the last load: tokens that the request had, and that are loaded after them."""

    def name(self, connector: int) -> None:
        """Tell the connector's name, once a request: an exporter that starts late has it then."""
        if connector not in self.named:
            self.named.add(connector)
            text = CONNECTORS.names[(connector & _MOST) - 1].encode()[:32]
            active.emit_payload(Kind.KV_NAME, self.key, connector, 0, text)


class Planned(NamedTuple):
    """A load that a connector was told of; `request_id` is empty for a synchronous one."""

    transfers: Transfers
    connector: int
    at: int
    tokens: int
    request_id: str


class InFlight:
    """Asynchronous transfers of this EngineCore, and when it last could have learned of an end."""

    __slots__ = ("asked_at", "loading", "planned", "sending", "storing")

    def __init__(self) -> None:
        self.loading: dict[str, int] = {}
        """Key by request id."""
        self.sending: dict[str, int] = {}
        self.planned: list[Planned] = []
        """Of the schedule() that is running."""
        self.storing: list[tuple[int, int, Stored]] = []
        """Likewise: keys of requests, connectors, and what they were told so far."""
        self.asked_at = 0

    def reset(self) -> None:
        """In a forked child, and in tests."""
        self.loading.clear()
        self.sending.clear()
        self.planned.clear()
        self.storing.clear()
        self.asked_at = 0


IN_FLIGHT = InFlight()
os.register_at_fork(after_in_child=IN_FLIGHT.reset)
