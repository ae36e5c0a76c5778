"""Pushing to layout directories (OCI image-spec, image-layout.md)."""

from __future__ import annotations

import errno
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import to_thread

from orlopd.plugin import Pushed, ResolveOptions
from orlopd.plugin.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from orlopd.plugin.resolver import OpenContent
from orlopd.plugin.values import Descriptor, check_digest

from .referrers import LayoutResolver
from .writing import LayoutFolder

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_DEFAULTS = ResolveOptions()
_WORD = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_NAME = re.compile(rf"{_WORD}(?:/{_WORD})*")
_LONGEST_NAME = 255


class PushingLayoutResolver(LayoutResolver):
    """A resolver of layout directories. See :class:`orlopd.plugin.PushingResolver`."""

    @asynccontextmanager
    async def push(
        self, reference: str, options: ResolveOptions = _DEFAULTS
    ) -> AsyncGenerator[LayoutDestination]:
        """See :class:`orlopd.plugin.PushingResolver`. The directory is made where there is none."""
        path, wanted = self.split(reference)
        digest = ""
        with suppress(InvalidArgument):
            digest = check_digest(wanted)
        if wanted and not digest and (len(wanted) > _LONGEST_NAME or not _NAME.fullmatch(wanted)):
            raise InvalidArgument(
                f"{wanted[:160]!r} is no name that a layout may give an image", reason="MALFORMED_REFERENCE"
            )
        folder = await _told(path, LayoutFolder, path)
        try:
            yield LayoutDestination(reference, path, folder, "" if digest else wanted, digest)
        finally:
            folder.close()


class LayoutDestination:
    """See :class:`orlopd.plugin.Destination`.

    :param wanted: how the layout's index is to call what is pushed; "" for nothing
    :param digest: what is pushed must have this one; "" for any
    """

    def __init__(self, name: str, path: str, folder: LayoutFolder, wanted: str, digest: str) -> None:
        self._name = name
        self._path = path
        self._folder = folder
        self._wanted = wanted
        self._digest = digest

    @property
    def name(self) -> str:
        """See :class:`orlopd.plugin.Destination`."""
        return self._name

    async def exists(self, descriptor: Descriptor) -> bool:
        """See :class:`orlopd.plugin.Destination`."""
        return await _told(self._path, self._folder.has, descriptor)

    async def push(
        self,
        descriptor: Descriptor,
        open_content: OpenContent,
        *,
        sources: Sequence[str] = (),
        sent: Callable[[int], None] = lambda offset: None,
    ) -> Pushed:
        """See :class:`orlopd.plugin.Destination`."""
        if await self.exists(descriptor):
            return Pushed.EXISTS
        part = await _told(self._path, self._folder.begin, descriptor)
        try:
            done = 0
            async with open_content(0) as pieces:
                async for piece in pieces:
                    await _told(self._path, part.write, piece)
                    done += len(piece)
                    sent(done)
            await _told(self._path, part.finish)
        finally:
            with anyio.CancelScope(shield=True):
                await _told(self._path, part.close)
        return Pushed.SENT

    async def finish(self, descriptor: Descriptor, open_content: OpenContent) -> Pushed:
        """See :class:`orlopd.plugin.Destination`."""
        if self._digest and self._digest != descriptor.digest:
            raise InvalidArgument(
                f"{descriptor.digest} cannot be pushed as {self._name}, which names another digest",
                reason="DIGEST_MISMATCH",
                resource=f"image {self._name}",
            )
        await self.push(descriptor, open_content)
        changed = await _told(self._path, self._folder.enter, descriptor, self._wanted)
        return Pushed.SENT if changed else Pushed.EXISTS


async def _told(path: str, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Do file work in a thread. :raises OrlopError: also for what the system refuses"""
    about = {"resource": f"file {path}"}
    try:
        return await to_thread.run_sync(work, *arguments)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"there is no directory {path} on the daemon's machine, nor one that it could be made in",
            **about,
        ) from None
    except OSError as error:
        said = f"{path} cannot be written: {(error.strerror or str(error)).lower()}"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (ResourceExhausted if full else Unavailable)(said, **about) from None
