"""Registers the overlayfs snapshotter."""

from __future__ import annotations

from collections.abc import Iterable

import anyio.to_thread
from pydantic import Field

from orlopd.plugin import Config, Context, Provider, Snapshotter, hookimpl
from orlopd.plugin.snapshots import REBASE

from .probe import overlay_options, probe
from .snapshotter import OverlaySnapshotter


class OverlayConfig(Config):
    """``[plugins.snapshotter.overlayfs]``"""

    mount_options: tuple[str, ...] = Field(
        default=(),
        description="Options for every overlay mount, beside those that this kernel needs.",
    )


async def _open(context: Context) -> Snapshotter:
    def make() -> Snapshotter:
        options = (*overlay_options(), *context.config.mount_options)
        return OverlaySnapshotter(context.root, options)

    return await anyio.to_thread.run_sync(make)


def _probe(context: Context) -> None:
    probe(context.root)


@hookimpl
def orlop_snapshotters() -> Iterable[Provider[Snapshotter]]:
    """Offer overlayfs where the kernel and the root's filesystem can."""
    yield Provider("overlayfs", open=_open, config=OverlayConfig, probe=_probe, capabilities=(REBASE,))
