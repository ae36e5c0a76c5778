"""From what a registry answered, or did not, to the errors of the house."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from orlopd.plugin.errors import (
    DeadlineExceeded,
    NotFound,
    OrlopError,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from orlopd.plugin.values import now

_LONGEST_DETAIL = 200
UNTRUSTED = "UNTRUSTED_CERTIFICATE"
GOODBYE = "CONNECTION_ENDED"
MOST_GOODBYES = 20
"""How many HTTP/2 connections may end under one request before that counts as trouble: a server that serves
so many requests on each ends one now and then, under all the requests that share it."""


def where(url: httpx.URL) -> str:
    """A URL for a person: without its query, which in redirects is often a signature."""
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace').rpartition('@')[2]}{url.path}"


def from_status(
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    *,
    host: str,
    what: str,
    hide: Callable[[str], str],
    known: bool = False,
) -> OrlopError:
    """The error for an answer that is no success. ``what`` was asked for: "image x:1"; ``known`` is whether
    credentials were given."""
    found = hide(detail(body))
    said = f": {found}" if found else ""
    about = {"resource": f"registry {host}"}
    match status:
        case 401:
            does = "refuses the credentials" if known else "wants credentials"
            return Unauthenticated(
                f"registry {host} {does} for {what}{said}",
                **about,
                hint="check the name first: some registries say this of images that do not exist",
            )
        case 403:
            return PermissionDenied(f"registry {host} does not allow access to {what}{said}", **about)
        case 404:
            return NotFound(f"no {what} at registry {host}{said}", resource=what)
        case 429:
            wait = retry_after(headers)
            later = f"; it asks to wait {wait:.0f} s" if wait is not None else ""
            return Unavailable(
                f"registry {host} limits how often it is asked (429){later}{said}",
                reason="RATE_LIMITED",
                **about,
                hint="wait, or give credentials",
            )
        case _:
            return Unavailable(
                f"registry {host} answered {status} when asked for {what}{said}",
                reason="REGISTRY_ERROR",
                **about,
            )


def from_exception(
    error: httpx.HTTPError | httpx.InvalidURL | TimeoutError,
    *,
    host: str,
    what: str,
    seconds: Mapping[str, float],
) -> OrlopError:
    """The error for a request that got no answer. ``seconds`` are the deadlines by name."""
    about = {"resource": f"registry {host}"}
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return DeadlineExceeded(
                f"registry {host} did not accept a connection within {seconds['connect']:g} s", **about
            )
        case httpx.TimeoutException() | TimeoutError():
            return DeadlineExceeded(
                f"registry {host} was asked for {what} and sent no answer within {seconds['first_byte']:g} s",
                **about,
            )
        case httpx.ConnectError():
            reason = UNTRUSTED if _is_untrusted(error) else "UNREACHABLE"
            return Unavailable(f"cannot reach registry {host}: {_cause(error)}", reason=reason, **about)
        case httpx.ProxyError():
            return Unavailable(f"the proxy does not reach registry {host}: {_cause(error)}", **about)
        case _:
            return Unavailable(
                f"the connection to registry {host} broke while asking for {what}: {_cause(error)}",
                reason=GOODBYE if is_goodbye(error) else "",
                **about,
            )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a server asks to wait (RFC 9110, Retry-After), or None."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now()).total_seconds())
    except (ValueError, TypeError):
        return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def is_goodbye(error: BaseException) -> bool:
    """Whether an HTTP/2 server has ended a connection in good order (RFC 9113, GOAWAY with NO_ERROR)."""
    said = (each.args[0] for each in causes(error) if each.args)
    # By its look: the package that has the type is loaded only where HTTP/2 is spoken.
    return any(type(each).__name__ == "ConnectionTerminated" and each.error_code == 0 for each in said)


def _is_untrusted(error: BaseException) -> bool:
    return any(isinstance(each, ssl.SSLCertVerificationError) for each in causes(error))


def _cause(error: Exception) -> str:
    *_, seen = causes(error)
    match seen:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({seen.verify_message})"
        case ssl.SSLError():
            return f"TLS failed ({seen.reason or 'protocol error'})"
        case socket.gaierror() if seen.strerror:
            return seen.strerror.lower()
        case OSError() if seen.errno:
            return os.strerror(seen.errno).lower()
        case _:
            return clean(str(seen)) or type(seen).__name__


def clean(text: str) -> str:
    """One printable line of bounded length."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= _LONGEST_DETAIL else line[:_LONGEST_DETAIL] + "…"


def detail(body: bytes) -> str:
    """What a registry says in its error body (OCI distribution-spec, error codes)."""
    try:
        errors: Any = json.loads(body)["errors"]
        first = errors[0]
        return clean(str(first.get("message") or first.get("code") or ""))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
