"""Jaeger and Tempo as far as they are asked here, over spans that a test gives them.

Both hand out no more traces than a search asks for, whichever come first by id.
"""

from __future__ import annotations

import base64
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from tests.backends.answering import Answer, Answering
from tests.backends.otlp import document
from vllm_codesign.model.trace import RequestTrace, Span

_NOT_FOUND = (404, b'{"error":{"httpCode":404,"message":"No traces found"}}')


class _Fake(Answering, ABC):
    def __init__(self, traces: Iterable[RequestTrace]) -> None:
        self.traces = {trace.trace_id: trace for trace in traces}
        super().__init__(self.answer)

    @abstractmethod
    def answer(self, path: str, parameters: dict[str, str]) -> Answer:
        """What this back end says to a request."""

    def services(self) -> list[str]:
        return sorted({span.service for trace in self.traces.values() for span in trace.spans})

    def matching(self, service: str, name: str | None, since: int, until: int) -> list[int]:
        def matches(span: Span) -> bool:
            named = name is None or span.name == name
            return span.service == service and named and since <= span.start_ns <= until

        return sorted(i for i, trace in self.traces.items() if any(map(matches, trace.spans)))


class FakeJaeger(_Fake):
    def answer(self, path: str, parameters: dict[str, str]) -> Answer:
        if path == "/api/v3/services":
            return 200, json.dumps({"services": self.services()}).encode()
        if path == "/api/v3/traces":
            found = self.matching(
                parameters["query.service_name"],
                parameters.get("query.operation_name"),
                _ns(parameters["query.start_time_min"]),
                _ns(parameters["query.start_time_max"]),
            )[: int(parameters["query.num_traces"])]
        else:
            found = [int(path.rsplit("/", 1)[1], 16)]
        known = [self.traces[i] for i in found if i in self.traces]
        if not known:
            return _NOT_FOUND
        return 200, json.dumps({"result": document(known)}).encode()


class FakeTempo(_Fake):
    partial = ""

    def answer(self, path: str, parameters: dict[str, str]) -> Answer:
        if path == "/api/v2/search/tag/resource.service.name/values":
            values = [{"type": "string", "value": name} for name in self.services()]
            return 200, json.dumps({"tagValues": values}).encode()
        if path == "/api/search":
            service, name = (re.search(f'{key} = "([^"]*)"', parameters["q"]) for key in _KEYS)
            assert service is not None
            since, until = (int(parameters[key]) * 10**9 for key in ("start", "end"))
            found = self.matching(service[1], name[1] if name else None, since, until)
            traces = [{"traceID": f"{i:x}"} for i in found[: int(parameters["limit"])]]
            # Tempo leaves out what is empty.
            return 200, json.dumps(
                {**({"traces": traces} if traces else {}), "metrics": {}}
            ).encode()
        trace = self.traces.get(int(path.rsplit("/", 1)[1], 16))
        answer: dict[str, Any] = {"trace": _base64(document([trace])) if trace else {}}
        if self.partial:
            answer |= {"status": "PARTIAL", "message": self.partial}
        return 200, json.dumps(answer).encode()


_KEYS = (r"resource\.service\.name", r"&& name")


def _ns(rfc3339: str) -> int:
    whole, _, fraction = rfc3339.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 10**9 + int(fraction)


def _base64(found: dict[str, Any]) -> dict[str, Any]:
    """Ids as Tempo writes them."""

    def turn(holder: dict[str, Any]) -> None:
        for key in ("traceId", "spanId", "parentSpanId"):
            if key in holder:
                holder[key] = base64.b64encode(bytes.fromhex(holder[key])).decode()

    for of_resource in found["resourceSpans"]:
        for of_scope in of_resource["scopeSpans"]:
            for span in of_scope["spans"]:
                turn(span)
                for link in span.get("links", ()):
                    turn(link)
    return found
