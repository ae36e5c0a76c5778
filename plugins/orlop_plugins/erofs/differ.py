"""The differ for what the erofs snapshotter has prepared for a layer: it writes the image itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread

from orlop_plugins.tar.differ import UNCOMPRESSED, arriving_size, check_layer, fed, handles
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.pool import WorkerPool
from orlopd.plugin.content import BlobReader, Ingest
from orlopd.plugin.diff import Progress
from orlopd.plugin.errors import FailedPrecondition, Unimplemented
from orlopd.plugin.files import explain
from orlopd.plugin.mount import overlay_layers
from orlopd.plugin.values import Descriptor, Mount

from .image import IMAGE, NEW
from .jobs import ImageJob


class ErofsDiffer:
    """Unpacks layers for the erofs snapshotter. Implements :class:`orlopd.plugin.diff.ParticularDiffer`.

    :param pool: who does it
    :param scratch: an empty directory that workers mount on, each in a namespace of its own
    """

    def __init__(self, pool: WorkerPool, scratch: Path, limits: Limits) -> None:
        self._pool = pool
        self._scratch = str(scratch)
        self._limits = limits

    def handles(self, media_type: str) -> bool:
        return handles(media_type)

    async def suits(self, mounts: Sequence[Mount]) -> bool:
        """Those of a snapshot that is for a layer, as long as nobody has written anything there."""

        def look() -> bool:
            folder = _folder(mounts)
            return (
                folder is not None
                and ((folder / NEW).exists() or (folder / IMAGE).exists())
                and not any((folder / "fs").iterdir())
            )

        try:
            return await anyio.to_thread.run_sync(look)
        except OSError:
            return False

    async def apply(
        self,
        layer: Descriptor,
        blob: BlobReader,
        mounts: Sequence[Mount],
        *,
        progress: Progress | None = None,
    ) -> Descriptor:
        digest = check_layer(layer, blob)
        folder = _folder(mounts)
        if folder is None or not await self.suits(mounts):
            raise FailedPrecondition("these mounts are none that the erofs snapshotter gave for a layer")
        new = folder / NEW
        userxattr = "userxattr" in mounts[0].options

        def begin() -> int:
            if (folder / IMAGE).exists():
                raise FailedPrecondition("this snapshot has a layer in it already")
            return os.open(new, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

        try:
            image = await anyio.to_thread.run_sync(begin)
            try:
                job = ImageJob(
                    self._scratch, blob.path or "", digest, userxattr, arriving_size(blob), self._limits
                )
                outcome = await fed(self._pool, job, blob, [image], progress=progress)
            finally:
                os.close(image)
            await anyio.to_thread.run_sync(new.rename, folder / IMAGE)
        except OSError as error:
            raise explain(error, f"cannot write the image of layer {digest}") from error
        return Descriptor(UNCOMPRESSED, outcome.digest, outcome.size)

    async def diff(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str,
        sink: Ingest,
        *,
        newest: int | None = None,
    ) -> str:
        raise Unimplemented("the erofs differ only unpacks")

    async def unpack_tar(
        self, blob: BlobReader, mounts: Sequence[Mount], *, uids: str = "", gids: str = ""
    ) -> int:
        raise Unimplemented("the erofs differ only unpacks layers")

    async def aclose(self) -> None:
        """End the workers."""
        await self._pool.aclose()


def _folder(mounts: Sequence[Mount]) -> Path | None:
    """The folder of the snapshot, if these may be mounts of the snapshotter."""
    if len(mounts) != 1:
        return None
    (only,) = mounts
    files = Path(overlay_layers(only).upper if only.type == "overlay" else only.source)
    return files.parent if files.is_absolute() and files.name == "fs" else None
