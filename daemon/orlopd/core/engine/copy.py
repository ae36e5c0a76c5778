"""Copying files into a container that does not run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio import to_thread

from orlopd.core.diffs import general
from orlopd.core.scope import Scope
from orlopd.plugin.errors import FailedPrecondition, Unimplemented
from orlopd.plugin.files import remove_tree

from .context import Context
from .find import Finder
from .record import config_of, name_of


class Copier:
    """Unpacks tar streams into root filesystems."""

    def __init__(self, context: Context, finder: Finder) -> None:
        self._context = context
        self._finder = finder

    async def copy_in(self, scope: Scope, reference: str, chunks: AsyncIterator[bytes]) -> int:
        """Unpack a tar into a container's root; the bytes of files written.

        The stream is kept whole first, so that a client that stops half way changes nothing.

        :raises NotFound: there is no such container
        :raises FailedPrecondition: it runs, or its root is a directory of the user's own
        :raises InvalidArgument: not a tar, one that leaves the root, or files of ids that are not mapped
        """
        context = self._context
        container = await self._finder.container(scope, reference)
        folder = context.folders.copies / os.urandom(8).hex()
        await to_thread.run_sync(lambda: folder.mkdir(mode=0o700))
        try:
            path = folder / "data"
            async with await anyio.open_file(path, "xb") as file:
                async for chunk in chunks:
                    await file.write(chunk)
            async with context.locks.hold(context.lock(scope, container.id)):
                if (await self._finder.view(scope, container)).state.alive:
                    raise FailedPrecondition(
                        f"container {name_of(container)} runs; files are copied into containers that do not",
                        reason="CONTAINER_RUNNING",
                    )
                if not container.snapshot_key:
                    raise FailedPrecondition(
                        f"the root of container {name_of(container)} is a directory of the host: copy there",
                        reason="ROOT_IS_A_DIRECTORY",
                    )
                config = config_of(container)
                uids, gids = config.maps.options if config and config.maps else ("", "")
                snapshotter = context.snapshots.for_name(container.snapshotter)
                mounts = await snapshotter.mounts(scope, container.snapshot_key)
                for differ in general(context.differs):
                    async with FileBlob(path) as blob:
                        return await differ.unpack_tar(blob, mounts, uids=uids, gids=gids)
            raise Unimplemented("no differ is there to unpack with", reason="NO_DIFFER")
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(remove_tree, folder)


class FileBlob:
    """A local file as a :class:`orlopd.plugin.content.BlobReader`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._size = path.stat().st_size

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self._size

    @property
    def path(self) -> str | None:
        """The file."""
        return str(self._path)

    async def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``."""
        return await to_thread.run_sync(os.pread, self._fd, size, offset)

    async def __aenter__(self) -> Self:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
