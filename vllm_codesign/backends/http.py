"""GET, JSON back; whatever goes wrong is one line that names the URL and what to do."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from vllm_codesign.backends.values import text
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
        status, to, body = self._fetched(request)
        if status == 200:
            return self._parsed(body, path)
        return self._refused(status, to, body, path)

    def _fetched(self, request: urllib.request.Request) -> tuple[int, str, bytes]:
        """Status, where a redirect leads to, and body."""
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as response:
                return 200, "", response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("Location", "nowhere"), _body(error)
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
        except ValueError as error:  # letters that no host or path can have
            raise CodesignError(
                f"{self.url!r} cannot be asked ({_reason(error)}): write the URL of {self.what} in "
                "ASCII, with %XX for other letters"
            ) from error

    def _silent(self) -> str:
        return (
            f"{self.what} at {self.url} did not answer within {self.timeout_s:g} s: "
            "ask for less with --since, --until or --limit"
        )

    def _parsed(self, body: bytes, path: str) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise NotThisApi(self._other(path, _line(body))) from error
        if not isinstance(answer, dict):
            raise NotThisApi(self._other(path, _line(body)))
        return answer

    def _other(self, path: str, shown: str) -> str:
        return (
            f"{self.url} is not {self.what}: {path} answers {shown!r}; "
            "give the base URL of its query API"
        )

    def _refused(self, status: int, to: str, body: bytes, path: str) -> dict[str, Any]:
        if status in (401, 403):
            raise CodesignError(
                f"{self.what} at {self.url} refuses with status {status}: give credentials "
                "with --header 'Authorization: Bearer ...'"
            )
        if 300 <= status < 400:
            raise CodesignError(
                f"{self.url} redirects to {_line(to.encode())}: name that, or log in with --header"
            )
        if status == 404:
            return self._parsed(body, path)
        raise CodesignError(
            f"{self.what} at {self.url} answers {path} with status {status}: {_line(body)}"
        )


def names(values: Any) -> list[str]:
    """Those among `values` that are any, as a back end lists its services."""
    found = values if isinstance(values, list) else []
    return [text(each) for each in found if isinstance(each, str)]


def _body(error: urllib.error.HTTPError) -> bytes:
    """Of a refusal; its status alone counts where the rest does not come."""
    try:
        with error:
            return error.read()
    except (OSError, http.client.HTTPException):
        return b""


def _reason(error: object) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _short(said) or type(error).__name__


def _line(body: bytes) -> str:
    """The first words of an answer; of Jaeger's errors, which are JSON, the message."""
    said = body.decode("utf-8", "replace").strip()
    # No JSON, or another one, is shown as it is.
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        said = json.loads(said)["error"]["message"]
    return _short(str(said))


def _short(said: str) -> str:
    """On one line, without what UTF-8 cannot say."""
    said = " ".join(text(said).split())
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
