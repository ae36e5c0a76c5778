"""Answering a registry's challenges: anonymous, basic and token authentication.

Specifications: RFC 7235 (challenges), the distribution project's token and OAuth2 pages.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import httpx

from orlopd.plugin import Credentials
from orlopd.plugin.errors import Unauthenticated, Unavailable

from .hosts import is_loopback, may_see_credentials, origin

_TOKEN68 = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_CHALLENGE = re.compile(rf"[\s,]*({_TOKEN68})(?:\s+(?={_TOKEN68}\s*=)|\s*(?=,|$))")
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN68})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN68}))')
_LONGEST_HEADER = 8192
_LONGEST_TOKEN = 64 << 10
_CLIENT_ID = "orlop"


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in that a server offers; ``scheme`` and the parameters' names are lowercase."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request to a token server. ``private`` headers go to its own origin only."""

    method: str
    url: httpx.URL
    private: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] = field(default_factory=dict, repr=False)


Find = Callable[[Sequence[str]], Awaitable[Credentials | None]]
"""Finds the credentials for a server that made these challenges."""

Ask = Callable[[TokenRequest], Awaitable[bytes]]
"""Sends a token request; returns the body of its success, bounded."""


def parse_challenges(headers: Sequence[str]) -> Sequence[Challenge]:
    """Read WWW-Authenticate headers; what cannot be read is left out."""
    found: list[Challenge] = []
    for header in headers:
        text, position = header[:_LONGEST_HEADER], 0
        while match := _CHALLENGE.match(text, position):
            position = match.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(text, position):
                position = parameter.end()
                name, quoted, plain = parameter.groups()
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
                parameters.setdefault(name.lower(), value)
            found.append(Challenge(match.group(1).lower(), parameters))
    return found


class Authorizer:
    """What one repository of one registry wants to see, as its challenges said.

    Only challenges of the registry's own origin are answered, and only that origin is shown the answer.
    """

    def __init__(
        self,
        host: str,
        base: httpx.URL,
        path: str,
        credentials: Credentials | None,
        token_hosts: Sequence[str],
        *,
        find: Find | None = None,
        actions: str = "pull",
        sources: Sequence[str] = (),
    ) -> None:
        """
        :param find: asked once, at the first challenge, where ``credentials`` are none
        :param actions: what is to be done with the repository, in the words of token servers
        :param sources: further repositories to read from, to mount what they have
        """
        self._host = host
        self._base = base
        self._path = path
        self._credentials = _usable(credentials)
        self._find = find
        self._actions = actions
        self._sources = sources
        self._token_hosts = token_hosts
        self._header = ""
        self._lock = anyio.Lock()

    def header(self, url: httpx.URL) -> str:
        """The Authorization header for ``url``; "" for another origin or before a challenge."""
        return self._header if origin(url) == origin(self._base) else ""

    @property
    def has_credentials(self) -> bool:
        """Whether anybody has given any."""
        return self._credentials is not None

    def hide(self, text: str) -> str:
        """``text`` with the secret struck out, should a server have echoed it."""
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return text

    def _secrets(self) -> Sequence[str]:
        secrets = [self._header.partition(" ")[2]]
        if self._credentials:
            secrets += [self._credentials.secret, _basic(self._credentials).partition(" ")[2]]
            secrets.append(self._credentials.header.partition(" ")[2] or self._credentials.header)
        return [each for each in secrets if each]

    async def answer(self, url: httpx.URL, headers: Sequence[str], shown: str, ask: Ask) -> bool:
        """Prepare the answer to a 401.

        :param headers: its WWW-Authenticate headers
        :param shown: the header the refused request had
        :returns: whether it is worth asking again
        """
        if origin(url) != origin(self._base):
            return False
        async with self._lock:
            if self._header != shown:
                return True  # somebody else has just answered
            if self._find is not None and self._credentials is None:
                self._credentials = _usable(await self._find(headers))
                self._find = None
            if self._credentials and self._credentials.header:
                self._header = self._credentials.header
                return self._header != shown
            for challenge in parse_challenges(headers):
                if challenge.scheme == "bearer":
                    self._header = f"Bearer {await self._token(challenge.parameters, ask)}"
                    return True
                if challenge.scheme == "basic" and self._credentials and not shown:
                    self._header = _basic(self._credentials)
                    return True
            return False

    async def _token(self, parameters: Mapping[str, str], ask: Ask) -> str:
        realm = self._realm(parameters.get("realm", ""))
        credentials = self._credentials
        if credentials and not may_see_credentials(realm, self._base, self._token_hosts):
            raise Unauthenticated(
                f"registry {self._host} sends its users to {realm.host} for a token, which is another host; "
                "the credentials were not sent there",
                reason="FOREIGN_TOKEN_HOST",
                resource=f"registry {self._host}",
                hint=f'if you trust it, add "{realm.host}" to token_hosts in '
                f'[plugins.resolver.registry.hosts."{self._host}"]',
            )
        scopes = self._scopes(parameters.get("scope", ""))
        service = {"service": parameters["service"]} if parameters.get("service") else {}
        if credentials and not credentials.username:
            form = service | {
                "scope": " ".join(scopes),
                "grant_type": "refresh_token",
                "refresh_token": credentials.secret,
                "client_id": _CLIENT_ID,
            }
            body = await ask(TokenRequest("POST", realm, form=form))
        else:
            private = {"Authorization": _basic(credentials)} if credentials else {}
            query: dict[str, str | list[str]] = {"scope": scopes, **service}
            body = await ask(TokenRequest("GET", realm.copy_merge_params(query), private=private))
        return self._read(body, realm)

    def _realm(self, text: str) -> httpx.URL:
        try:
            realm = httpx.URL(text)
        except httpx.InvalidURL:
            realm = httpx.URL("")
        plain = realm.scheme == "http" and (self._base.scheme == "http" or is_loopback(realm.host))
        if not realm.host or realm.userinfo or not (realm.scheme == "https" or plain):
            raise Unavailable(
                f"registry {self._host} asks for a token from {text[:120]!r}, which is no https address",
                reason="BAD_CHALLENGE",
                resource=f"registry {self._host}",
            )
        return realm

    def _scopes(self, asked: str) -> list[str]:
        """What to ask a token for: never more than what is to be done here, whatever the challenge says."""
        own = [f"repository:{self._path}:{self._actions}"]
        own += [f"repository:{source}:pull" for source in self._sources]
        if self._credentials:
            return own
        return own + [each for each in asked.split() if not each.startswith(("repository:", "registry:"))]

    def _read(self, body: bytes, realm: httpx.URL) -> str:
        try:
            answer = json.loads(body[:_LONGEST_TOKEN])
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, RecursionError, AttributeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise Unavailable(
                f"the token server {realm.host} of registry {self._host} answered without a usable token",
                reason="BAD_TOKEN",
                resource=f"registry {self._host}",
            )
        return token


def _usable(credentials: Credentials | None) -> Credentials | None:
    return credentials if credentials and (credentials.secret or credentials.header) else None


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.secret}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
