"""Tempo: TraceQL finds traces, one request each brings them (API v2, Tempo 2.7 and newer)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from vllm_codesign.backends import complete, otlp_json
from vllm_codesign.backends.collected import LMCACHE_REQUEST, Collected, Found
from vllm_codesign.backends.http import Endpoint, NotThisApi
from vllm_codesign.backends.query import Query

MOST = 1_000
_NS_PER_S = 1_000_000_000
_AT_ONCE = 8


def read(url: str, query: Query, into: Collected) -> None:
    """Take what `query` asks for from the Tempo at `url`."""
    complete.read(Tempo(Endpoint("Tempo", url, query.headers)), query, into)


@dataclass(frozen=True)
class Tempo:
    """`/api/search` and `/api/v2/traces`. Searches are in whole seconds."""

    endpoint: Endpoint
    most: int = MOST
    least_ns: int = _NS_PER_S
    _fetched: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"Tempo at {self.endpoint.url}"

    def services(self) -> list[str]:
        path = "/api/v2/search/tag/resource.service.name/values"
        found = self.endpoint.get(path).get("tagValues") or ()
        return [str(each.get("value", "")) for each in found if isinstance(each, dict)]

    def trace(self, trace_id: int, into: Collected) -> bool:
        spans, partial = self._spans(trace_id)
        if partial:
            into.note(f"{self.name} cut trace {trace_id:032x}: {partial}")
        return into.take(spans) > 0

    def find(
        self, service: str, span: str | None, since_ns: int, until_ns: int, into: Collected
    ) -> int:
        wanted = f"resource.service.name = {json.dumps(service)}"
        if span is not None:
            wanted += f" && name = {json.dumps(span)}"
        if span == "request":
            wanted += f" && span.{LMCACHE_REQUEST} != nil"
        found = self._search(f"{{ {wanted} }}", since_ns, until_ns)
        new = [trace_id for trace_id in found if trace_id not in self._fetched]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for trace_id, (spans, partial) in zip(new, pool.map(self._spans, new), strict=True):
                if partial:
                    into.note(f"{self.name} cut trace {trace_id:032x}: {partial}")
                into.take(spans)
        self._fetched.update(new)
        return len(found)

    def _search(self, traceql: str, since_ns: int, until_ns: int) -> list[int]:
        path = "/api/search"
        # Whole seconds: what starts within the last one is meant too.
        answer = self.endpoint.get(
            path,
            {
                "q": traceql,
                "start": since_ns // _NS_PER_S,
                "end": -(-until_ns // _NS_PER_S),
                "limit": self.most,
                "spss": 1,
            },
        )
        if "traces" not in answer and "metrics" not in answer:
            raise self._not_tempo(path, answer)
        return [int(each["traceID"], 16) for each in answer.get("traces") or ()]

    def _spans(self, trace_id: int) -> tuple[list[Found], str]:
        """Of one trace, and why some are missing; none where Tempo does not have it."""
        path = f"/api/v2/traces/{trace_id:032x}"
        answer = self.endpoint.get(path)
        if not isinstance(answer.get("trace"), dict):
            raise self._not_tempo(path, answer)
        partial = ""
        if answer.get("status") == "PARTIAL":
            partial = str(answer.get("message") or "it is larger than its limit")
        return list(self._found(answer["trace"], path)), partial

    def _found(self, trace: dict[str, Any], path: str) -> Iterator[Found]:
        return otlp_json.spans_of(trace, f"{self.endpoint.url}{path}")

    def _not_tempo(self, path: str, answer: dict[str, Any]) -> NotThisApi:
        return NotThisApi(
            f"{self.endpoint.url} is not Tempo 2.7 or newer: {path} answers {answer!s:.200}; "
            "give the base URL of its query API (port 3200 by default)"
        )
