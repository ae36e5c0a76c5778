"""The contract of a resolver: reference in, content out; and of one that takes content in as well."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from .values import NO_LABELS, Descriptor


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks. Neither the secret nor the header ever shows in a repr, a log or an error.

    :param username: empty where the secret is an identity token
    :param header: a whole Authorization header, in place of the others
    """

    username: str = ""
    secret: str = field(default="", repr=False)
    header: str = field(default="", repr=False)


CredentialsLookup = Callable[[str, Sequence[str]], Awaitable[Credentials | None]]
"""Finds credentials when a server wants some: its host and port, and the challenges it made."""


@dataclass(frozen=True, slots=True)
class ResolveOptions:
    """How to ask.

    :param credentials: for the host that the reference names, not for mirrors of it
    :param plain_http: allow HTTP without TLS to a host other than this machine
    :param lookup: asked where ``credentials`` has nothing for a host
    :param headers: sent with each request to the host that the reference names
    :param host_folder: a ``certs.d`` folder to look into instead of the configured ones
    """

    credentials: Credentials | None = None
    plain_http: bool = False
    lookup: CredentialsLookup | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: NO_LABELS, repr=False)
    host_folder: str = ""


class Source(Protocol):
    """One resolved reference and the place its content comes from."""

    @property
    def name(self) -> str:
        """The full reference, for example ``docker.io/library/alpine:latest``."""
        ...

    @property
    def descriptor(self) -> Descriptor:
        """What the reference points at now."""
        ...

    def fetch(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open the content of ``descriptor`` from ``offset`` on.

        The caller verifies the digest. Leaving the context ends the transfer.

        :raises NotFound: the source has no such content
        :raises Unavailable: it cannot be reached
        :raises DeadlineExceeded: it stopped sending
        """
        ...


class Resolver(Protocol):
    """Turns references of one kind into sources."""

    def handles(self, reference: str) -> bool:
        """Whether references that look like this are this resolver's."""
        ...

    def resolve(
        self, reference: str, options: ResolveOptions = ResolveOptions()
    ) -> AbstractAsyncContextManager[Source]:
        """Ask what a reference points at. Connections live as long as the context.

        :raises InvalidArgument: malformed reference
        :raises NotFound: nothing there
        :raises Unauthenticated: credentials are missing or wrong
        :raises PermissionDenied: they do not suffice
        :raises Unavailable: it cannot be reached
        :raises DeadlineExceeded: it did not answer
        """
        ...


@dataclass(frozen=True, slots=True)
class Referrers:
    """What says of itself that it is about something: signatures, bills of materials and the like.

    :param name: the full reference that was asked about
    :param subject: the digest that it points at
    :param listed: each with its artifact type and annotations, where the registry tells them
    """

    name: str
    subject: str
    listed: tuple[Descriptor, ...]


@runtime_checkable
class ReferringResolver(Resolver, Protocol):
    """A resolver that can tell what refers to something, which is not asked of every one."""

    async def referrers(
        self, reference: str, artifact_type: str = "", options: ResolveOptions = ResolveOptions()
    ) -> Referrers:
        """What refers to what a reference points at; nothing is no error.

        :param artifact_type: of this type alone
        :raises InvalidArgument: malformed reference
        :raises NotFound: the reference points at nothing
        :raises OrlopError: as :meth:`resolve`
        """
        ...


class Pushed(enum.Enum):
    """How content came to be at its destination."""

    SENT = "sent"
    """Its bytes were sent."""
    MOUNTED = "mounted"
    """The destination took it from another of its repositories."""
    EXISTS = "exists"
    """It was there."""


OpenContent = Callable[[int], AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""Opens content from an offset on, in pieces of any size; more than once when a transfer breaks."""


class Destination(Protocol):
    """Where a reference's content is to go."""

    @property
    def name(self) -> str:
        """The full reference."""
        ...

    async def exists(self, descriptor: Descriptor) -> bool:
        """Whether the destination has this content.

        :raises OrlopError: as :meth:`push`
        """
        ...

    async def push(
        self,
        descriptor: Descriptor,
        open_content: OpenContent,
        *,
        sources: Sequence[str] = (),
        sent: Callable[[int], None] = lambda offset: None,
    ) -> Pushed:
        """Have content at the destination: what it points at must have been pushed before.

        :param sources: repositories of the same host, without the host, that may have it
        :param sent: told how many bytes are there
        :raises Unauthenticated: credentials are missing or wrong
        :raises PermissionDenied: they do not suffice
        :raises InvalidArgument: the destination refuses this content
        :raises Unavailable: it cannot be reached
        :raises DeadlineExceeded: it did not answer
        """
        ...

    async def finish(self, descriptor: Descriptor, open_content: OpenContent) -> Pushed:
        """Have the reference point at a manifest or index, whose parts are all there. Errors: as ``push``."""
        ...


@runtime_checkable
class PushingResolver(Resolver, Protocol):
    """A resolver that content can be pushed to as well, which is not asked of every one."""

    def push(
        self, reference: str, options: ResolveOptions = ResolveOptions()
    ) -> AbstractAsyncContextManager[Destination]:
        """Open the way to a reference; nothing is asked yet. Connections live as long as the context.

        :raises InvalidArgument: malformed reference
        """
        ...
