"""Requests to one registry: deadlines, tries, redirects and challenges in one place."""

from __future__ import annotations

import math
import random
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Self

import anyio
import httpx

from orlopd.plugin.errors import DeadlineExceeded, OrlopError, Unavailable

from . import answers
from .auth import Authorizer, TokenRequest
from .config import RegistryConfig
from .endpoints import SYSTEM_TRUST, Endpoint, Tls
from .hosts import is_loopback, origin
from .trust import TlsTrust

_HOPS = 10
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_BROKEN = (httpx.NetworkError, httpx.ProtocolError, httpx.ProxyError)
_FINAL = (ConnectionRefusedError, socket.gaierror, ssl.SSLError)
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_ERROR_BODY = 16 << 10
_KEEPING = frozenset({307, 308})
"""Redirects that keep the method; others turn what writes into a GET, which is not what was asked."""
_ANY = frozenset({301, 302, 303}) | _KEEPING


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``what`` names its object for errors; ``private`` headers stay on its origin."""

    method: str
    url: httpx.URL
    what: str
    headers: Mapping[str, str] = field(default_factory=dict)
    private: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] = field(default_factory=dict, repr=False)
    authorizer: Authorizer | None = None
    accept: Callable[[int], bool] = lambda status: 200 <= status < 300
    content: Callable[[], AsyncGenerator[bytes]] | None = None
    """Makes the body, anew for each time it is sent; ``length`` bytes."""
    length: int = 0
    tries: int | None = None
    """The most tries; the config's number when None."""
    patience: float | None = None
    """Seconds for the answer's head; the config's when None."""
    whose: str = ""
    """What belongs to the registry and is asked in its place, for errors."""


class Transport:
    """Connections to an endpoint and the places it redirects to; an async context manager.

    :param host: what to call the registry in errors
    """

    def __init__(self, host: str, endpoint: Endpoint, config: RegistryConfig, trust: TlsTrust) -> None:
        self.host = host
        self.config = config
        self._endpoint = endpoint
        self._trust = trust
        self._stack = AsyncExitStack()
        self._clients: dict[tuple[bool, bool, Tls], httpx.AsyncClient] = {}
        self._http2 = config.http2
        self._connect = endpoint.connect_timeout or config.connect_timeout
        self._seconds = {"connect": self._connect, "first_byte": config.first_byte_timeout}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()

    @asynccontextmanager
    async def open(self, ask: Ask) -> AsyncIterator[httpx.Response]:
        """Send ``ask`` and open its answer, trying again where that may help.

        The body is not read yet: :meth:`body` or :meth:`read` do.

        :raises OrlopError: no acceptable answer came
        """
        response = await self.send(ask)
        try:
            yield response
        finally:
            await _close(response)

    async def send(self, ask: Ask) -> httpx.Response:
        """As :meth:`open`, but closing is the caller's."""
        attempt = goodbyes = 0
        while True:
            wait = self.pause(attempt)
            last = attempt + 1 >= (self.config.retries + 1 if ask.tries is None else ask.tries)
            try:
                response = await self._follow(ask)
            except _BROKEN as error:
                self._heed(error)
                if ask.tries is None and goodbyes < answers.MOST_GOODBYES and answers.is_goodbye(error):
                    goodbyes += 1
                    await anyio.sleep(self.pause(0))
                    continue
                if last or _hopeless(error):
                    raise self._failed(error, ask) from error
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                raise self._failed(error, ask) from error
            else:
                if ask.accept(response.status_code):
                    return response
                error = await self._refused(response, ask)
                if last or response.status_code not in _PASSING:
                    raise error
                asked = answers.retry_after(response.headers)
                if asked is not None and asked > self.config.longest_wait:
                    raise error
                wait = max(wait, asked or 0.0)
            await anyio.sleep(wait)
            attempt += 1

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the try of this number failed; spread, so that many do not come at once."""
        return min(self.config.backoff * 2**attempt, self.config.longest_wait) * random.uniform(0.75, 1.25)

    async def body(self, response: httpx.Response) -> AsyncGenerator[bytes]:
        """The bytes as they were sent.

        :raises DeadlineExceeded: next to nothing came for the stall timeout
        :raises httpx.TransportError: the connection broke
        """
        async with aclosing(response.aiter_raw()) as chunks:  # pyright: ignore[reportArgumentType]
            waited, received = 0.0, 0
            while True:
                asked = anyio.current_time()
                try:
                    # httpx's deadline is per packet and shared with the first byte; this one is the stall's.
                    with anyio.fail_after(self.config.stall_timeout):
                        chunk = await anext(chunks, None)
                except (TimeoutError, httpx.TimeoutException):
                    raise self._stalled("nothing") from None
                except ssl.SSLError as error:
                    raise httpx.ReadError(str(error), request=response.request) from error
                except _BROKEN as error:
                    self._heed(error)
                    raise
                if chunk is None:
                    return
                received += len(chunk)
                waited += anyio.current_time() - asked  # the reader's own slowness does not count
                if waited >= self.config.stall_timeout:
                    if received < 1024:
                        raise self._stalled(f"only {received} bytes")
                    waited, received = 0.0, 0
                yield chunk

    def _heed(self, error: Exception) -> None:
        """Go on over HTTP/1.1 once a server has ended an HTTP/2 connection: answers that are under way then
        are lost to the library, and where a connection serves few requests, next to nothing would come."""
        if self._http2 and answers.is_goodbye(error):
            self._http2 = False

    def _stalled(self, what: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"registry {self.host} stopped sending: {what} came in {self.config.stall_timeout:g} s",
            resource=f"registry {self.host}",
        )

    async def read(self, response: httpx.Response, limit: int, what: str) -> bytes:
        """A whole small body. :raises Unavailable: it is beyond ``limit``, or the connection broke"""
        data = bytearray()
        try:
            async with aclosing(self.body(response)) as chunks:
                async for chunk in chunks:
                    data += chunk
                    if len(data) > limit:
                        raise Unavailable(
                            f"registry {self.host} sends more than {limit} bytes for {what}",
                            reason="ANSWER_TOO_LARGE",
                            resource=f"registry {self.host}",
                        )
        except httpx.HTTPError as error:
            raise answers.from_exception(error, host=self.host, what=what, seconds=self._seconds) from error
        return bytes(data)

    async def token(self, request: TokenRequest) -> bytes:
        """Ask a token server. Errors are as those of the registry."""
        ask = Ask(
            request.method,
            request.url,
            "a token",
            private=request.private,
            form=request.form,
            whose=f"'s token server {request.url.host}",
        )
        async with self.open(ask) as response:
            return await self.read(response, 64 << 10, "a token")

    async def _follow(self, ask: Ask) -> httpx.Response:
        """One try: through redirects and at most one challenge."""
        url, challenged, hops = ask.url, False, 0
        while True:
            headers = httpx.Headers({"Accept-Encoding": "identity", **ask.headers})
            shown = ask.authorizer.header(url) if ask.authorizer else ""
            if shown:
                headers["Authorization"] = shown
            if origin(url) == origin(ask.url):
                headers.update(ask.private)
            response = await self._once(ask, url, headers)
            status = response.status_code
            try:
                if self._redirects(ask, status) and "location" in response.headers:
                    hops += 1
                    url = self._next(url, response.headers["location"], hops)
                elif status == 401 and ask.authorizer and not challenged:
                    challenged = True
                    challenges = response.headers.get_list("www-authenticate")
                    if not await ask.authorizer.answer(url, challenges, shown, self.token):
                        return response
                    url = ask.url
                else:
                    return response
            except BaseException:
                await _close(response)
                raise
            await _close(response)

    @staticmethod
    def _redirects(ask: Ask, status: int) -> bool:
        # A form holds a token: it goes nowhere but where it was addressed to.
        return not ask.form and status in (_ANY if ask.method in ("GET", "HEAD") else _KEEPING)

    async def _once(self, ask: Ask, url: httpx.URL, headers: Mapping[str, str]) -> httpx.Response:
        client = await self._client(url)
        patience = ask.patience or self.config.first_byte_timeout
        # httpx counts the first byte's deadline anew with each packet; a slow drip of headers must end too.
        with anyio.fail_after(self._connect + patience) as deadline:
            content = None
            if ask.content is not None:
                headers = {**headers, "content-length": str(ask.length)}
                content = self._paced(ask.content(), deadline, patience)
            request = client.build_request(
                ask.method, url, headers=dict(headers), data=dict(ask.form) or None, content=content
            )
            if ask.patience:
                request.extensions["timeout"] = {**request.extensions["timeout"], "read": ask.patience}
            try:
                return await client.send(request, stream=True)
            except ssl.SSLError as error:  # with TLS 1.3 a server refuses a client after the handshake
                raise httpx.ReadError(str(error), request=request) from error

    async def _paced(
        self, content: AsyncGenerator[bytes], deadline: anyio.CancelScope, patience: float
    ) -> AsyncGenerator[bytes]:
        """A body whose pieces have the stall's deadline each, and whose end begins that of the answer."""
        async with aclosing(content):
            async for piece in content:
                deadline.deadline = anyio.current_time() + self.config.stall_timeout
                yield piece
                deadline.deadline = math.inf  # our own slowness does not count
        deadline.deadline = anyio.current_time() + patience

    def _next(self, here: httpx.URL, location: str, hops: int) -> httpx.URL:
        about = {"resource": f"registry {self.host}"}
        if hops > _HOPS:
            raise Unavailable(f"registry {self.host} redirects in circles ({_HOPS} times)", **about)
        try:
            url = here.join(location)
        except httpx.InvalidURL:
            raise Unavailable(f"registry {self.host} redirects to no address", **about) from None
        if url.scheme not in ("http", "https") or url.userinfo or not _HOST.fullmatch(url.host):
            raise Unavailable(
                f"registry {self.host} redirects to {answers.where(url)}, not an address", **about
            )
        if here.scheme == "https" and url.scheme == "http":
            raise Unavailable(
                f"registry {self.host} redirects from https to {answers.where(url)}; that is not followed",
                **about,
            )
        if is_loopback(url.host) and not is_loopback(here.host):
            raise Unavailable(
                f"registry {self.host} redirects to {answers.where(url)}, this machine; that is not followed",
                **about,
            )
        return url

    async def _client(self, url: httpx.URL) -> httpx.AsyncClient:
        loopback = is_loopback(url.host)
        # Its certificates are shown to the endpoint alone, and what it may skip is checked elsewhere.
        tls = self._endpoint.tls if url.host == self._endpoint.base.host else SYSTEM_TRUST
        key = (self._http2, loopback, tls)
        if key not in self._clients:
            context = await self._trust.context(tls)
            if key in self._clients:
                return self._clients[key]
            http2, config = key[0], self.config
            client = httpx.AsyncClient(
                verify=context,
                http2=http2,
                # A proxy of the environment would look for loopback on its own machine.
                trust_env=not loopback,
                timeout=httpx.Timeout(
                    connect=self._connect,
                    read=max(config.first_byte_timeout, config.stall_timeout),
                    write=config.stall_timeout,
                    pool=None,
                ),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                headers={"User-Agent": "orlop"},
                follow_redirects=False,
            )
            self._clients[key] = client
            await self._stack.enter_async_context(client)
        return self._clients[key]

    async def explain(self, response: httpx.Response, authorizer: Authorizer) -> str:
        """What an answer that is a refusal says, as the end of a sentence; "" where it says nothing."""
        detail = authorizer.hide(answers.detail(await self._error_body(response)))
        return f": {detail}" if detail else ""

    async def _refused(self, response: httpx.Response, ask: Ask) -> OrlopError:
        body = await self._error_body(response)
        authorizer = ask.authorizer
        return answers.from_status(
            response.status_code,
            body,
            response.headers,
            host=self.host + ask.whose,
            what=ask.what,
            hide=authorizer.hide if authorizer else lambda text: _hide_private(text, ask),
            known=authorizer.has_credentials if authorizer else bool(ask.private or ask.form),
        )

    @staticmethod
    async def _error_body(response: httpx.Response) -> bytes:
        body = b""
        try:
            with anyio.move_on_after(5):
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > _ERROR_BODY:
                        break
        except httpx.HTTPError:
            pass  # the status says enough
        finally:
            await _close(response)
        return body[:_ERROR_BODY]

    def _failed(self, error: httpx.HTTPError | httpx.InvalidURL | TimeoutError, ask: Ask) -> OrlopError:
        host = self.host + ask.whose
        if isinstance(error, httpx.RequestError) and origin(error.request.url) != origin(ask.url):
            host = f"{host}'s redirect to {error.request.url.host}"
        return answers.from_exception(error, host=host, what=ask.what, seconds=self._seconds)


def _hide_private(text: str, ask: Ask) -> str:
    """A token server's error may echo what it was shown; nothing of it is worth that risk."""
    return "" if ask.private or ask.form else text


def _hopeless(error: Exception) -> bool:
    """Whether a broken connection will break again: nobody listens, no such name, TLS fails."""
    return any(isinstance(each, _FINAL) for each in answers.causes(error))


async def _close(response: httpx.Response) -> None:
    with anyio.CancelScope(shield=True):
        await response.aclose()
