"""Registers the erofs snapshotter, and the differ that unpacks for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import anyio.to_thread
from pydantic import Field

from orlop_plugins.tar.config import UnpackConfig
from orlop_plugins.tar.pool import WorkerPool
from orlopd.plugin import Config, Context, Differ, Provider, Snapshotter, hookimpl, overlay
from orlopd.plugin.snapshots import REBASE

from . import image
from .differ import ErofsDiffer
from .snapshotter import ErofsSnapshotter


class ErofsConfig(Config):
    """``[plugins.snapshotter.erofs]``"""

    compression: Literal["", "lz4", "lz4hc"] = Field(
        default="",
        description="How layers are compressed on disk: lz4, lz4hc (by mkfs.erofs, which takes its time), "
        "or not at all.",
    )
    mount_options: tuple[str, ...] = Field(
        default=(),
        description="Options for every overlay mount, beside those that this kernel needs.",
    )


async def _open(context: Context) -> Snapshotter:
    def make() -> Snapshotter:
        overlay.probe(context.root, context.config.mount_options)
        loop = image.probe(context.root, compression=context.config.compression)
        options = (*overlay.overlay_options(), *context.config.mount_options)
        compression = context.config.compression
        snapshotter = ErofsSnapshotter(context.root, options, compression=compression, loop=loop)
        snapshotter.sync_behind(context.state, context.tasks)
        return snapshotter

    return await anyio.to_thread.run_sync(make)


async def _open_differ(context: Context) -> Differ:
    scratch = context.state / "scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    # It starts with the first layer: most daemons never unpack one this way.
    pool = WorkerPool(context.config.workers, context.log, zygote="orlop_plugins.erofs.worker")
    return ErofsDiffer(pool, scratch, context.config.limits())


@hookimpl
def orlop_differs() -> Iterable[Provider[Differ]]:
    """Offer the differ that writes layers as images; ``serve-plugin erofs`` stays the snapshotter."""
    yield Provider("erofs-layers", open=_open_differ, config=UnpackConfig)


@hookimpl
def orlop_snapshotters() -> Iterable[Provider[Snapshotter]]:
    """Offer erofs where the kernel can."""
    yield Provider("erofs", open=_open, config=ErofsConfig, capabilities=(REBASE,))
