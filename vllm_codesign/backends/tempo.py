"""Tempo: TraceQL finds traces, one request each brings them (API v2, Tempo 2.7 and newer)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from vllm_codesign.backends import complete, otlp_json
from vllm_codesign.backends.collected import LMCACHE_ID, LMCACHE_ROOT, Collected, Found
from vllm_codesign.backends.complete import Wanted
from vllm_codesign.backends.http import Endpoint, NotThisApi, names
from vllm_codesign.backends.query import Query
from vllm_codesign.backends.slices import Slice
from vllm_codesign.backends.values import hexadecimal, text
from vllm_codesign.model.errors import CodesignError

MOST = 1_000
_NS_PER_S = 1_000_000_000
_AT_ONCE = 8


def read(url: str, query: Query, into: Collected) -> None:
    """Take what `query` asks for from the Tempo at `url`."""
    complete.read(Tempo(Endpoint("Tempo", url, query.headers), MOST), query, into)


@dataclass(frozen=True)
class Tempo:
    """`/api/search` and `/api/v2/traces`. Searches are in whole seconds."""

    endpoint: Endpoint
    most: int
    least_ns: int = _NS_PER_S
    _fetched: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"Tempo at {self.endpoint.url}"

    def services(self) -> list[str]:
        path = "/api/v2/search/tag/resource.service.name/values"
        found = self.endpoint.get(path).get("tagValues")
        values = found if isinstance(found, list) else []
        return names([each.get("value") for each in values if isinstance(each, dict)])

    def trace(self, trace_id: int, into: Collected) -> bool:
        spans = self._spans(trace_id, into)
        into.take(spans)
        return bool(spans)

    def find(self, asked: Wanted, most: int, into: Collected) -> Slice:
        wanted = f"resource.service.name = {json.dumps(asked.service)}"
        if asked.span is not None:
            wanted += f" && name = {json.dumps(asked.span)}"
        if asked.span == LMCACHE_ROOT:
            wanted += f" && span.{LMCACHE_ID} != nil"
        found = self._search(f"{{ {wanted} }}", asked.since_ns, asked.until_ns, most)

        def take() -> None:
            new = [trace_id for trace_id in found if trace_id not in self._fetched]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for spans in pool.map(lambda trace_id: self._spans(trace_id, into), new):
                    into.take(spans)
            self._fetched.update(new)

        return Slice(len(found), take)

    def _search(self, traceql: str, since_ns: int, until_ns: int, most: int) -> list[int]:
        path = "/api/search"
        # Whole seconds: what starts within the last one is meant too.
        answer = self.endpoint.get(
            path,
            {
                "q": traceql,
                "start": since_ns // _NS_PER_S,
                "end": -(-until_ns // _NS_PER_S),
                "limit": most,
                "spss": 1,
            },
        )
        if "traces" not in answer and "metrics" not in answer:
            raise self._not_tempo(path, answer)
        try:
            return [hexadecimal(each["traceID"], 128) for each in answer.get("traces") or ()]
        except otlp_json.WRONG as error:
            where = f"{self.endpoint.url}{path}"
            raise CodesignError(f"{where} lists no traces: {otlp_json.cause(error)}") from error

    def _spans(self, trace_id: int, into: Collected) -> list[Found]:
        """Of one trace; none where Tempo does not have it."""
        path = f"/api/v2/traces/{trace_id:032x}"
        answer = self.endpoint.get(path)
        if not isinstance(answer.get("trace"), dict):
            raise self._not_tempo(path, answer)
        if answer.get("status") == "PARTIAL":
            why = text(str(answer.get("message") or "it is larger than its limit"))
            into.note(f"{self.name} cut trace {trace_id:032x}: {why}")
        return list(self._found(answer["trace"], path))

    def _found(self, trace: dict[str, Any], path: str) -> Iterator[Found]:
        return otlp_json.spans_of(trace, f"{self.endpoint.url}{path}")

    def _not_tempo(self, path: str, answer: dict[str, Any]) -> NotThisApi:
        return NotThisApi(
            f"{self.endpoint.url} is not Tempo 2.7 or newer: {path} answers {answer!s:.200}; "
            "give the base URL of its query API (port 3200 by default)"
        )
