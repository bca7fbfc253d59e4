"""`/metrics` over HTTP: reads only, a few clients at a time, and none of them for long."""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

logger = logging.getLogger(__name__)

PATH = "/metrics"
SILENT_S = 5.0
"""A client that sends or takes nothing for so long is cut off,"""
LONGEST_S = 10.0
"""and any at all after this."""
MOST_CLIENTS = 8

Render = Callable[[str], tuple[bytes, str]]
"""From the `Accept` header to the body and its content type."""


class Endpoint:
    """Listens from construction on until `close`; OSError where it cannot.

    A request costs a thread of its own, which collects and renders; the exporter's loop does
    not wait for any of them.
    """

    def __init__(self, host: str, port: int, render: Render) -> None:
        self._server = _Server(host, port, render)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.25,), name="codesign-metrics", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        text = str(host)
        return f"http://{f'[{text}]' if ':' in text else text}:{port}{PATH}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, host: str, port: int, render: Render) -> None:
        self.render = render
        self._places = threading.BoundedSemaphore(MOST_CLIENTS)
        self._since: dict[socket.socket, float] = {}
        self._said = False
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks a name server who it is.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._since.pop(request, None)
            self._places.release()

    def service_actions(self) -> None:
        """Called some times a second: ends whoever is here for too long."""
        now = time.monotonic()
        for request, since in list(self._since.items()):
            if now - since > LONGEST_S:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError as error:  # it has just gone by itself
                    logger.debug("codesign: %s", error)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is ours, and said once."""
        if isinstance(sys.exception(), OSError) or self._said:
            return
        self._said = True
        logger.exception("codesign: %s could not be answered", PATH)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = SILENT_S
    server_version = "codesign"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == PATH:
            body, content_type = self.server.render(self.headers.get("Accept") or "")
            self._answer(200, body, content_type)
        else:
            self._answer(404, f"metrics are at {PATH}\n".encode(), "text/plain; charset=utf-8")

    def _refuse(self) -> None:
        self._answer(405, b"GET only\n", "text/plain; charset=utf-8", {"Allow": "GET"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_TRACE = _refuse

    def _answer(
        self, status: int, body: bytes, content_type: str, more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **(more or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The server's log is not a web server's."""
