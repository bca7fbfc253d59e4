"""Whatever a back end answers with is an object, or one line with cause and cure."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from tests.backends.answering import Answering
from tests.support.otlp_receiver import SilentListener, free_port
from vllm_codesign.backends.http import Endpoint, NotThisApi
from vllm_codesign.model.errors import CodesignError


def get(status: int, body: bytes) -> object:
    with Answering(lambda _path, _parameters: (status, body)) as server:
        return Endpoint("Jaeger", server.url).get("/x")


def test_an_object_comes_back_and_headers_go_out() -> None:
    with pytest.raises(NotThisApi, match="is not Jaeger"):
        get(200, b"[]")
    with Answering(lambda path, parameters: (200, json.dumps({path: parameters}).encode())) as s:
        endpoint = Endpoint("Jaeger", f"{s.url}/base/", {"X-Scope-OrgID": "me"})
        assert endpoint.get("/x", {"q": "{ a = 1 }", "n": 2}) == {
            "/base/x": {"q": "{ a = 1 }", "n": "2"}
        }
        assert s.headers[0]["x-scope-orgid"] == "me"


def test_not_found_is_an_answer_if_it_is_json() -> None:
    assert get(404, b'{"error":{"httpCode":404}}') == {"error": {"httpCode": 404}}
    with pytest.raises(NotThisApi, match=r"is not Jaeger: /x answers '404 page not found'"):
        get(404, b"404 page not found")


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (401, b"", "refuses with status 401: give credentials with --header"),
        (403, b"<html>", "refuses with status 403: give credentials"),
        (302, b"https://login.example/", "redirects to https://login.example/: name that"),
        (500, b'{"error":{"message":"search depth\\nmust be less"}}', "search depth must be less"),
        (503, b"x" * 1_000, r"status 503: x{200}\.\.\."),
        (200, b"<!DOCTYPE html>", "is not Jaeger: /x answers '<!DOCTYPE html>'"),
        (200, b'{"cut', "is not Jaeger"),
        (200, b'{"a": "\xff"}', "is not Jaeger"),
        (200, b"[" * 100_000, "is not Jaeger"),
        (500, b'{"error": {"message": "\\ud800 \xff"}}', "with status 500: "),
        (500, b"[" * 100_000, r"with status 500: \[{200}\.\.\."),
    ],
)
def test_errors(status: int, body: bytes, line: str) -> None:
    with pytest.raises(CodesignError, match=line) as error:
        get(status, body)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 50\r\n\r\nshort", "with status 500: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "broke off"),
        (b"HTTP/1.1 20x OK\r\n\r\n", "broke off"),
        (b"\x00\xff\n\n", "broke off"),
    ],
)
def test_answers_that_break_off(answer: bytes, line: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            with listening.accept()[0] as connection:
                connection.recv(65_536)
                connection.sendall(answer)

        threading.Thread(target=once, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(CodesignError, match=line) as error:
            Endpoint("Tempo", url).get("/x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/\xe4", "http://\xe4..b", "http://h/a b"])
def test_letters_that_no_url_has(url: str) -> None:
    with pytest.raises(CodesignError, match=r"cannot be asked|broke off|cannot reach") as error:
        Endpoint("Tempo", url).get("/x")
    assert "\n" not in str(error.value)


def test_nobody_there() -> None:
    with pytest.raises(CodesignError, match=r"cannot reach Tempo at .*Connection refused"):
        Endpoint("Tempo", f"http://127.0.0.1:{free_port()}").get("/x")


def test_no_answer_in_time() -> None:
    with (
        SilentListener() as silent,
        pytest.raises(CodesignError, match=r"did not answer within 0\.1 s: ask for less"),
    ):
        Endpoint("Tempo", silent.endpoint, timeout_s=0.1).get("/x")


@pytest.mark.parametrize("url", ["localhost:16686", "ftp://host", "http://", "//x", ""])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(CodesignError, match=r"is no URL of Jaeger: write http://HOST:PORT"):
        Endpoint("Jaeger", url)
