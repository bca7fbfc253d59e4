"""Which of the workers' calls of a KV connector are kept, and for how long.

Workers tell of two in every step. A request needs those of the steps that loaded or stored
something for it, and for as long as it is in the making; EngineCore names them, before or
after the workers' records are read, as rings are read one after the other.
"""

from __future__ import annotations

from collections import OrderedDict

from vllm_codesign.recorder.reader import Record

UNNAMED = 10_000
"""Steps of one engine whose calls are kept although no request has named them yet: a ring of
the default size holds fewer."""

Times = dict[int, tuple[int, int]]
"""By `KVCall`: from the first rank's call to the last one's return."""


class ConnectorCalls:
    """The calls by step; `of` has those of the steps that a request in the making names."""

    def __init__(self) -> None:
        self.of: dict[int, Times] = {}
        self.missed = 0
        """Steps that were named when their calls were gone already."""
        self._unnamed: dict[int, OrderedDict[int, Times]] = {}
        self._gone: dict[int, int] = {}
        """By engine, the last step whose calls nobody had named in time."""
        self._steps: dict[int, dict[int, int]] = {}
        """By request: steps that it names. A load's by itself, as a request may have several;
        a store's by its connector, as the last one counts."""
        self._names: dict[int, int] = {}
        """By step: how many name it."""

    def add(self, step: int, record: Record) -> None:
        """A worker's record of a call."""
        calls = self.of.get(step)
        if calls is None:
            unnamed = self._unnamed.setdefault(step >> 40, OrderedDict())
            calls = unnamed.setdefault(step, {})
            while len(unnamed) > UNNAMED:
                self._gone[step >> 40] = unnamed.popitem(last=False)[0]
        which = record.c & 0xFF
        first, last = calls.get(which, (record.t0, record.t1))
        calls[which] = min(first, record.t0), max(last, record.t1)

    def loads(self, request: int, step: int) -> None:
        """The workers of this step load something for the request."""
        self._name(request, step, step)

    def stores(self, request: int, step: int, connector: int) -> None:
        """They store something of it, by this connector; of its earlier stores nobody asks."""
        self._name(request, step, -connector)

    def _name(self, request: int, step: int, why: int) -> None:
        steps = self._steps.setdefault(request, {})
        before = steps.get(why)
        if before == step:
            return
        steps[why] = step
        self._names[step] = self._names.get(step, 0) + 1
        if step not in self.of:
            unnamed = self._unnamed.get(step >> 40)
            calls = unnamed.pop(step, None) if unnamed is not None else None
            if calls is None and step <= self._gone.get(step >> 40, 0):
                self.missed += 1
            self.of[step] = calls or {}
        if before is not None:
            self._unname(before)

    def release(self, request: int) -> None:
        """The request is told: nobody asks for its steps any more."""
        for step in self._steps.pop(request, {}).values():
            self._unname(step)

    def _unname(self, step: int) -> None:
        self._names[step] -= 1
        if not self._names[step]:
            del self._names[step], self.of[step]
