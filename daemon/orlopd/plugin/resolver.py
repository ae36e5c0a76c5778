"""The contract of a resolver: reference in, content out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from .values import Descriptor


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks. The secret never shows in a repr, a log or an error."""

    username: str = ""
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ResolveOptions:
    """How to ask. ``plain_http`` allows HTTP without TLS to a host other than this machine."""

    credentials: Credentials | None = None
    plain_http: bool = False


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
