"""The report as a server on this machine: every request of a capture that may still be growing.

    GET /                               the page
    GET /figures                        verdict, charts and tables, made anew when segments came
    GET /api/state                      how many requests and segments there are
    GET /api/requests?text=&outcome=&order=&offset=&limit=
    GET /api/request/TRACE/SPAN         one request's spans and steps

It reads and never writes. A capture says who asked for what and when, so a page of another site
must not get at it: requests that name another host, as they do after a DNS rebinding, are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from vllm_codesign.analysis.overview import find, load_results, results_of
from vllm_codesign.report.documents import Documents
from vllm_codesign.report.embedded import meta
from vllm_codesign.report.environment import compact, environment
from vllm_codesign.report.fragment import Maker, Stopped
from vllm_codesign.store.index import Entry, Index, Order

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MOST = 200
"""Requests of one page of the list."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; connect-src 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Served:
    """One capture behind an aiohttp application."""

    def __init__(self, capture: Path | None, results: Path | None) -> None:
        """Raises `CodesignError` where there is no such capture or the results are not such."""
        self._results = results or results_of(capture)
        self.capture = find(capture, results)
        scenarios = {}
        if self._results is not None:
            bench = load_results(self._results)
            scenarios = {int(row.trace_id, 16): row.scenario for row in bench.requests}
        self.index = Index(self.capture, scenarios)
        self.index.refresh()
        # DuckDB's connection is one thread's; what reads it never runs in the event loop.
        self._reader = ThreadPoolExecutor(1, "codesign-view")
        self._maker = Maker(self.capture.path, self._results)
        self._figures: tuple[int, str] | None = None
        self._making = asyncio.Lock()

    def application(self, hosts: tuple[str, ...] = LOOPBACK) -> web.Application:
        """`hosts`: names that a request may be sent to; empty for any."""
        made = web.Application(middlewares=[_guard(hosts)])
        made.add_routes(
            [
                web.get("/", self._page),
                web.get("/figures", self._figures_fragment),
                web.get("/api/state", self._state),
                web.get("/api/requests", self._requests),
                web.get("/api/request/{trace:[0-9a-f]{1,32}}/{span:[0-9a-f]{1,16}}", self._request),
            ]
        )
        made.on_shutdown.append(self._end)
        made.on_cleanup.append(self._close)
        return made

    async def _end(self, _: web.Application) -> None:
        """Before requests that are being answered are waited for."""
        self._maker.end()

    async def _close(self, _: web.Application) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)
        self.index.close()

    async def _read(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._reader, function, *arguments)

    async def _page(self, _: web.Request) -> web.StreamResponse:
        await self._read(self.index.refresh)
        outcomes = await self._read(lambda: list(self.index.outcomes))
        page = (
            environment()
            .get_template("view.html.j2")
            .render(
                name=self.capture.path.name, inside=None, data=compact(meta()), outcomes=outcomes
            )
        )
        return web.Response(text=page, content_type="text/html")

    async def _figures_fragment(self, _: web.Request) -> web.StreamResponse:
        async with self._making:
            await self._read(self.index.refresh)
            version = self.index.version
            if self._figures is None or self._figures[0] != version:
                try:
                    self._figures = (version, await self._maker.make())
                except Stopped as why:
                    raise web.HTTPServiceUnavailable(text=f"no figures: {why}") from why
        return web.Response(text=self._figures[1], content_type="text/html")

    async def _state(self, _: web.Request) -> web.StreamResponse:
        await self._read(self.index.refresh)
        return web.json_response(
            {
                "requests": await self._read(lambda: self.index.total),
                "segments": len(self.index.files),
                "version": self.index.version,
                "unreadable": self.index.reading.unreadable,
            }
        )

    async def _requests(self, request: web.Request) -> web.StreamResponse:
        asked = request.query
        try:
            order = Order(asked.get("order", Order.SLOWEST))
            limit = min(max(int(asked.get("limit", 50)), 1), _MOST)
            offset = max(int(asked.get("offset", 0)), 0)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}: order, limit or offset is not one") from error
        found = await self._read(
            self.index.search, asked.get("text", ""), asked.get("outcome", ""), order, limit, offset
        )
        entries = [_plain(entry) for entry in found.entries]
        return web.json_response({"total": found.total, "entries": entries})

    async def _request(self, request: web.Request) -> web.StreamResponse:
        trace_id, span_id = (int(request.match_info[key], 16) for key in ("trace", "span"))
        found = await self._read(self._document, trace_id, span_id)
        if found is None:
            raise web.HTTPNotFound(
                text=f"no request {span_id:016x} of trace {trace_id:032x} here: retention may have "
                "taken its segment"
            )
        return web.json_response(found)

    def _document(self, trace_id: int, span_id: int) -> dict[str, Any] | None:
        trace = self.index.trace(trace_id, span_id)
        if trace is None:
            return None
        documents = Documents()
        (entry,) = self.index.search(f"{span_id:016x}", limit=1).entries or (None,)
        scenario = entry.scenario if entry is not None else ""
        document = documents.document(trace, scenario, self.index.steps(trace))
        return {"names": documents.names, "colours": documents.colours, "document": document}


def _plain(entry: Entry) -> dict[str, Any]:
    found = asdict(entry)
    return {
        "trace": f"{found.pop('trace_id'):032x}",
        "span": f"{found.pop('span_id'):016x}",
        # As the script's numbers can hold it.
        "start_us": found.pop("start_ns") // 1_000,
        **found,
    }


def _guard(hosts: tuple[str, ...]) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if hosts and _name(request.host) not in hosts:
            return web.Response(status=403, text=f"this server is not {request.host}\n")
        try:
            answer = await handler(request)
        except web.HTTPException as error:
            error.headers.update(_HEADERS)
            raise
        answer.headers.update(_HEADERS)
        return answer

    return guard


def _name(host: str) -> str:
    """Of a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
