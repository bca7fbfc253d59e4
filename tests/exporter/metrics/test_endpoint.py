"""`/metrics` over HTTP: who may ask, and for how long."""

from __future__ import annotations

import http.client
import logging
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.otlp_receiver import free_port, wait_until
from vllm_codesign.exporter.metrics import endpoint as module
from vllm_codesign.exporter.metrics.endpoint import Endpoint


def render(accept: str) -> tuple[bytes, str]:
    return f"accepted {accept}\n".encode(), "text/plain"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint("127.0.0.1", free_port(), render)
    yield made
    made.close()


def port_of(endpoint: Endpoint) -> int:
    return int(endpoint.url.rpartition(":")[2].partition("/")[0])


def ask(
    endpoint: Endpoint, method: str = "GET", path: str = "/metrics"
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(endpoint), timeout=5)
    connection.request(method, path, headers={"Accept": "text/x"})
    return connection.getresponse()


def test_it_answers_get(endpoint: Endpoint) -> None:
    assert endpoint.url == f"http://127.0.0.1:{port_of(endpoint)}/metrics"
    for path in ("/metrics", "/metrics?name[]=x"):
        response = ask(endpoint, path=path)
        assert (response.status, response.read()) == (200, b"accepted text/x\n")
        assert response.getheader("Content-Type") == "text/plain"
        assert response.getheader("Server") == "codesign "


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_and_nothing_else(endpoint: Endpoint, method: str) -> None:
    response = ask(endpoint, method)
    assert (response.status, response.getheader("Allow")) == (405, "GET")


def test_other_paths_say_where_it_is(endpoint: Endpoint) -> None:
    response = ask(endpoint, path="/")
    assert (response.status, response.read()) == (404, b"metrics are at /metrics\n")


def test_a_slow_client_holds_nobody_up_and_is_cut_off(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 0.5)
    silent = socket.create_connection(("127.0.0.1", port_of(endpoint)))
    drip = socket.create_connection(("127.0.0.1", port_of(endpoint)))
    drip.send(b"GET /metrics HTTP/1.1\r\n")
    begun = time.monotonic()
    assert ask(endpoint).read() == b"accepted text/x\n"
    assert time.monotonic() - begun < 0.5
    for client in (silent, drip):
        client.settimeout(5)
        assert client.recv(1) == b"", "the server hung up"
        client.close()
    assert time.monotonic() - begun < 4


def test_more_than_a_few_at_once_are_turned_away_and_places_come_free(endpoint: Endpoint) -> None:
    address = ("127.0.0.1", port_of(endpoint))
    clients = [socket.create_connection(address) for _ in range(module.MOST_CLIENTS)]
    server = endpoint._server
    wait_until(lambda: len(server._since) == module.MOST_CLIENTS)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(endpoint)
    for client in clients:
        client.close()
    wait_until(lambda: not server._since)
    assert ask(endpoint).status == 200


def test_a_taken_port_is_an_error_at_once(endpoint: Endpoint) -> None:
    with pytest.raises(OSError, match="in use"):
        Endpoint("127.0.0.1", port_of(endpoint), render)


def test_a_failure_of_ours_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: str) -> tuple[bytes, str]:
        raise ValueError("no figures")

    made = Endpoint("127.0.0.1", free_port(), broken)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
                ask(made)
    made.close()
    assert [r.getMessage() for r in caplog.records] == ["codesign: /metrics could not be answered"]


def test_an_ipv6_address_is_written_as_one() -> None:
    try:
        made = Endpoint("::1", free_port(), render)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert made.url.startswith("http://[::1]:")
    made.close()
