"""GET, JSON back; whatever goes wrong is one line that names the URL and what to do."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_codesign.model.errors import CodesignError

TIMEOUT_S = 30.0
_SHOWN = 200


class NotThisApi(CodesignError):
    """Something answers, but not the interface that was asked for."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is a login page more often than not, and would be sent our headers."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


@dataclass(frozen=True)
class Endpoint:
    """The base URL of a query API; `what` is its name in errors."""

    what: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        try:
            parsed = urllib.parse.urlsplit(self.url)
            good = parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0
        except ValueError:
            good = False
        # Not shown where it may hold a password, which urllib would take for part of the host.
        if not good or parsed.username is not None:
            shown = "that" if "@" in self.url else repr(self.url)
            raise CodesignError(
                f"{shown} is no URL of {self.what}: write http://HOST:PORT, with the port of its "
                "query API; credentials go into --header 'Authorization: ...'"
            )

    def get(self, path: str, parameters: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        """The JSON object under `path`; of a status 404 too, if it is one.

        Raises `NotThisApi` where the answer is of another kind, `CodesignError` for all else.
        """
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        url = f"{self.url.rstrip('/')}{path}{query}"
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        for name, value in self.headers.items():
            # Kept from a redirect, should the opener ever follow one.
            request.add_unredirected_header(name, value)
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as response:
                return self._parsed(response.read(), path)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error, path)
        except TimeoutError as error:
            raise CodesignError(self._silent()) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise CodesignError(self._silent()) from error
            raise CodesignError(
                f"cannot reach {self.what} at {self.url}: {_reason(error.reason)}; is it running, "
                "and is this the port of its query API?"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise CodesignError(
                f"{self.url} broke off ({_reason(error)}): is this the port of {self.what}'s query "
                "API and not of OTLP? If so, ask for less with --since, --until or --limit"
            ) from error

    def _silent(self) -> str:
        return (
            f"{self.what} at {self.url} did not answer within {self.timeout_s:g} s: "
            "ask for less with --since, --until or --limit"
        )

    def _parsed(self, body: bytes, path: str) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise NotThisApi(self._other(path, _line(body))) from error
        if not isinstance(answer, dict):
            raise NotThisApi(self._other(path, _line(body)))
        return answer

    def _other(self, path: str, shown: str) -> str:
        return (
            f"{self.url} is not {self.what}: {path} answers {shown!r}; "
            "give the base URL of its query API"
        )

    def _refused(self, error: urllib.error.HTTPError, path: str) -> dict[str, Any]:
        body = error.read()
        if error.code in (401, 403):
            raise CodesignError(
                f"{self.what} at {self.url} refuses with status {error.code}: give credentials "
                "with --header 'Authorization: Bearer ...'"
            )
        if 300 <= error.code < 400:
            to = error.headers.get("Location", "nowhere")
            raise CodesignError(f"{self.url} redirects to {to}: name that, or log in with --header")
        if error.code == 404:
            return self._parsed(body, path)
        raise CodesignError(
            f"{self.what} at {self.url} answers {path} with status {error.code}: {_line(body)}"
        )


def _reason(error: object) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


def _line(body: bytes) -> str:
    """The first words of an answer; of Jaeger's errors, which are JSON, the message."""
    text = body.decode("utf-8", "replace").strip()
    try:
        answer = json.loads(text)
        text = answer["error"]["message"]
    except (ValueError, KeyError, TypeError):
        pass  # no JSON, or another one: shown as it is
    text = " ".join(str(text).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
