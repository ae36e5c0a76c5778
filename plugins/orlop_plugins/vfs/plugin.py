"""Registers the vfs snapshotter."""

from __future__ import annotations

from collections.abc import Iterable

import anyio.to_thread

from orlopd.plugin import Context, Provider, Snapshotter, hookimpl

from .snapshotter import VfsSnapshotter


async def _open(context: Context) -> Snapshotter:
    def make() -> Snapshotter:
        snapshotter = VfsSnapshotter(context.root)
        snapshotter.sync_behind(context.state, context.tasks)
        return snapshotter

    return await anyio.to_thread.run_sync(make)


@hookimpl
def orlop_snapshotters() -> Iterable[Provider[Snapshotter]]:
    """Offer plain directories; containerd's word for it is native."""
    yield Provider("vfs", open=_open, aliases=("native",))
