"""Registers the overlayfs snapshotter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anyio.to_thread
from pydantic import Field

from orlopd.plugin import Config, Context, Provider, Snapshotter, hookimpl
from orlopd.plugin.errors import Skip
from orlopd.plugin.overlay import overlay_options, probe
from orlopd.plugin.snapshots import REBASE

from .snapshotter import REMAP, OverlaySnapshotter


class OverlayConfig(Config):
    """``[plugins.snapshotter.overlayfs]``"""

    mount_options: tuple[str, ...] = Field(
        default=(),
        description="Options for every overlay mount, beside those that this kernel needs.",
    )
    metacopy: bool = Field(
        default=False,
        description=(
            "Copy only the owner and mode of a file when only they change, not its contents. Layers written\n"
            "with it can only be read on a kernel that knows it, and are compared by walking."
        ),
    )
    volatile: bool = Field(
        default=False,
        description=(
            "Never wait for the disk on behalf of a container. What it wrote is gone after a crash of the\n"
            "machine, and its snapshot refuses to be mounted then."
        ),
    )


def _options(config: OverlayConfig) -> tuple[str, ...]:
    return (*(("metacopy=on",) if config.metacopy else ()), *config.mount_options)


async def _open(context: Context) -> Snapshotter:
    def make() -> OverlaySnapshotter:
        options = (*overlay_options(), *_options(context.config))
        snapshotter = OverlaySnapshotter(context.root, options, volatile=context.config.volatile)
        snapshotter.sync_behind(context.state, context.tasks)
        return snapshotter

    return await anyio.to_thread.run_sync(make)


def _probe(context: Context) -> None:
    config: OverlayConfig = context.config
    if config.metacopy and not Path("/sys/module/overlay/parameters/metacopy").exists():
        raise Skip("this kernel's overlay knows no metacopy, which the config asks for")
    probe(context.root, (*_options(config), *(("volatile",) if config.volatile else ())))


@hookimpl
def orlop_snapshotters() -> Iterable[Provider[Snapshotter]]:
    """Offer overlayfs where the kernel and the root's filesystem can."""
    yield Provider("overlayfs", open=_open, config=OverlayConfig, probe=_probe, capabilities=(REBASE, REMAP))
