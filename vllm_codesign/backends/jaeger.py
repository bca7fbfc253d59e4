"""Jaeger, by its query API v3 (OTLP as JSON), and by the old one where v3 is missing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vllm_codesign.backends import complete, jaeger_legacy, otlp_json
from vllm_codesign.backends.collected import Collected, Found
from vllm_codesign.backends.complete import Wanted
from vllm_codesign.backends.http import Endpoint, NotThisApi, names
from vllm_codesign.backends.query import Query
from vllm_codesign.backends.slices import Slice
from vllm_codesign.model.errors import CodesignError

MOST = 500
"""Traces in one answer: Jaeger holds it in memory, and refuses more than it may store."""
_LEAST_NS = 1_000
_NOT_FOUND = 404


def read(url: str, query: Query, into: Collected) -> None:
    """Take what `query` asks for from the Jaeger at `url`."""
    endpoint = Endpoint("Jaeger", url, query.headers)
    try:
        backend: complete.Searchable = V3(endpoint, _services(endpoint), MOST)
    except NotThisApi as missing:
        try:
            backend = jaeger_legacy.Legacy(endpoint, jaeger_legacy.services(endpoint))
        except NotThisApi:
            raise missing from None
        into.note("this Jaeger answers in microseconds: times are not exact to the nanosecond")
    complete.read(backend, query, into)


def _services(endpoint: Endpoint) -> list[str]:
    path = "/api/v3/services"
    answer = endpoint.get(path)
    if answer and "services" not in answer:
        raise NotThisApi(
            f"{endpoint.url} is not Jaeger: {path} answers without `services`; "
            "give the base URL of its query API (port 16686 by default)"
        )
    return names(answer.get("services"))


@dataclass(frozen=True)
class V3:
    """`/api/v3/traces`. Raw, since Jaeger's adjusters may move spans in time."""

    endpoint: Endpoint
    known: list[str]
    most: int
    least_ns: int = _LEAST_NS

    @property
    def name(self) -> str:
        return f"Jaeger at {self.endpoint.url}"

    def services(self) -> list[str]:
        return self.known

    def trace(self, trace_id: int, into: Collected) -> bool:
        path = f"/api/v3/traces/{trace_id:032x}"
        spans = self._spans(self.endpoint.get(path, {"raw_traces": "true"}), path)
        into.take(spans)
        return bool(spans)

    def find(self, asked: Wanted, most: int, into: Collected) -> Slice:
        path = "/api/v3/traces"
        parameters: dict[str, str | int] = {
            "query.service_name": asked.service,
            "query.start_time_min": rfc3339(asked.since_ns),
            "query.start_time_max": rfc3339(asked.until_ns),
            "query.num_traces": most,
            "query.raw_traces": "true",
        }
        if asked.span is not None:
            parameters["query.operation_name"] = asked.span
        spans = self._spans(self.endpoint.get(path, parameters), path)
        return Slice(len({found.span.trace_id for found in spans}), lambda: into.take(spans))

    def _spans(self, answer: dict[str, Any], path: str) -> list[Found]:
        where = f"{self.endpoint.url}{path}"
        if isinstance(result := answer.get("result"), dict):
            return list(otlp_json.spans_of(result, where))
        if _says_none(answer):
            return []
        raise CodesignError(f"{where} answers neither with traces nor with 404: {answer!s:.200}")


def _says_none(answer: dict[str, Any]) -> bool:
    error = answer.get("error")
    return isinstance(error, dict) and error.get("httpCode") == _NOT_FOUND


def rfc3339(unix_ns: int) -> str:
    """With nine decimals: Python's own have six."""
    seconds, ns = divmod(unix_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"
