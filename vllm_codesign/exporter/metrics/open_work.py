"""What requests that have not ended did so far, as work in the house.

Built by the very builder that will build their traces, from the records that are there: what
has not ended ends beyond all time, and a window cuts it. Built again only where records came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm_codesign.accounting import Work
from vllm_codesign.exporter.assemble import Assembler
from vllm_codesign.exporter.build import Builder
from vllm_codesign.exporter.facts import EngineFacts, Facts
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.recorder.layout import Kind

NEVER_NS = 1 << 61
"""Far beyond any clock, and far from what 64 bits hold."""


class OpenWork:
    """Looks at the assembler's requests in the making, and changes none."""

    def __init__(self, assembler: Assembler, builder: Builder) -> None:
        self._assembler = assembler
        self._builder = builder
        self._known: dict[tuple[str, int], tuple[int, Work]] = {}

    def before(self, until_ns: int) -> Work:
        """Of requests that began before this instant."""
        known, self._known = self._known, {}
        total = Work()
        for key, root in self._assembler.roots.items():
            if root.one[Kind.ROOT_BEGIN].t0 < until_ns:
                build = self._of_root(key)
                total.add(self._kept(known, ("root", key), (root, *root.engines), build))
        for key, engine in self._assembler.engines.items():
            begin = engine.get(Kind.REQ)
            if engine.root_key in self._assembler.roots or begin is None:
                continue
            if begin.t0 < until_ns:
                build = self._of_engine(engine)
                total.add(self._kept(known, ("engine", key), (engine,), build))
        return total

    def _kept(
        self,
        known: dict[tuple[str, int], tuple[int, Work]],
        key: tuple[str, int],
        facts: Sequence[Facts],
        build: Callable[[], list[RequestTrace]],
    ) -> Work:
        records = sum(_records(each) for each in facts)
        found = known.get(key)
        if found is None or found[0] != records:
            work = Work()
            for trace in build():
                work.take(trace)
            # Its span ends where it was last seen: true of what has got lost on its way only.
            work.dispatch += [(each.one[Kind.REQ].t0, NEVER_NS) for each in facts if _on_way(each)]
            found = records, work
        self._known[key] = found
        return found[1]

    def _of_root(self, key: int) -> Callable[[], list[RequestTrace]]:
        root = self._assembler.roots[key]
        return lambda: self._builder.request(root, NEVER_NS, final=True)

    def _of_engine(self, engine: EngineFacts) -> Callable[[], list[RequestTrace]]:
        def build() -> list[RequestTrace]:
            origin = self._assembler.ended.get(engine.root_key)
            trace = self._builder.engine(engine, origin, NEVER_NS)
            return [trace] if trace is not None else []

        return build


def _records(facts: Facts) -> int:
    return len(facts.one) + sum(map(len, facts.many.values()))


def _on_way(facts: Facts) -> bool:
    """Handed to the engine client, and not yet in the scheduler's queue."""
    return Kind.REQ in facts.one and facts.one.keys().isdisjoint(_ARRIVED)


_ARRIVED = frozenset((Kind.ENG_QUEUED, Kind.ENG_FINISHED, Kind.REQ_OUT, Kind.REQ_FAILED))
