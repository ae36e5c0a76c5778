"""The resolver as the daemon opens it: what talks HTTP is loaded when the first image is asked for.

The HTTP client takes longer to import than all the rest of a daemon's start.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from orlopd.plugin import Destination, Referrers, ResolveOptions, Source

from .config import RegistryConfig

if TYPE_CHECKING:
    from .resolver import RegistryResolver

_DEFAULTS = ResolveOptions()
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+-]*:[./]")


def handles(reference: str) -> bool:
    """Everything that is not written with another transport's prefix, as in ``oci-layout:/path``."""
    return not _SCHEME.match(reference) or reference.startswith(("http://", "https://"))


class LazyResolver:
    """A :class:`.resolver.RegistryResolver` that is made when it is first used."""

    def __init__(self, config: RegistryConfig, log: logging.Logger) -> None:
        self._config = config
        self._log = log
        self._lock = anyio.Lock()
        self._resolver: RegistryResolver | None = None

    def handles(self, reference: str) -> bool:
        """See :func:`handles`."""
        return handles(reference)

    @asynccontextmanager
    async def resolve(self, reference: str, options: ResolveOptions = _DEFAULTS) -> AsyncGenerator[Source]:
        """See :class:`orlopd.plugin.Resolver`."""
        async with (await self._loaded()).resolve(reference, options) as source:
            yield source

    @asynccontextmanager
    async def push(self, reference: str, options: ResolveOptions = _DEFAULTS) -> AsyncGenerator[Destination]:
        """See :class:`orlopd.plugin.PushingResolver`."""
        async with (await self._loaded()).push(reference, options) as destination:
            yield destination

    async def referrers(
        self, reference: str, artifact_type: str = "", options: ResolveOptions = _DEFAULTS
    ) -> Referrers:
        """See :class:`orlopd.plugin.ReferringResolver`."""
        return await (await self._loaded()).referrers(reference, artifact_type, options)

    async def _loaded(self) -> RegistryResolver:
        async with self._lock:
            if self._resolver is None:
                self._resolver = await to_thread.run_sync(self._load)
        return self._resolver

    def _load(self) -> RegistryResolver:
        import httpcore

        from .resolver import RegistryResolver

        # How much of a body is read at a time. What a chunk costs on its way through the layers is much the
        # same whatever its size, and asyncio hands out as much as this.
        httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = 256 << 10  # pyright: ignore[reportAttributeAccessIssue]
        # These log URLs and headers, where signatures and tokens are.
        for name in ("httpx", "httpcore", "hpack"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return RegistryResolver(self._config, self._log)
