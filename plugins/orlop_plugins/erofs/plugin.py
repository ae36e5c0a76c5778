"""Registers the erofs snapshotter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import anyio.to_thread
from pydantic import Field

from orlopd.plugin import Config, Context, Provider, Snapshotter, hookimpl, overlay
from orlopd.plugin.snapshots import REBASE

from . import image
from .snapshotter import ErofsSnapshotter


class ErofsConfig(Config):
    """``[plugins.snapshotter.erofs]``"""

    compression: Literal["", "lz4", "lz4hc"] = Field(
        default="lz4", description="How layers are compressed on disk: lz4, lz4hc, or not at all."
    )
    mount_options: tuple[str, ...] = Field(
        default=(),
        description="Options for every overlay mount, beside those that this kernel needs.",
    )


async def _open(context: Context) -> Snapshotter:
    def make() -> Snapshotter:
        overlay.probe(context.root, context.config.mount_options)
        loop = image.probe(context.root)
        options = (*overlay.overlay_options(), *context.config.mount_options)
        return ErofsSnapshotter(context.root, options, compression=context.config.compression, loop=loop)

    return await anyio.to_thread.run_sync(make)


@hookimpl
def orlop_snapshotters() -> Iterable[Provider[Snapshotter]]:
    """Offer erofs where there is mkfs.erofs and the kernel can."""
    yield Provider("erofs", open=_open, config=ErofsConfig, capabilities=(REBASE,))
