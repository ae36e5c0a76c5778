"""Registers the btrfs snapshotter."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import anyio.to_thread

from orlopd.plugin import Context, Provider, Snapshotter, hookimpl
from orlopd.plugin.errors import Skip
from orlopd.plugin.overlay import filesystem

from . import subvolumes
from .snapshotter import BtrfsSnapshotter


async def _open(context: Context) -> Snapshotter:
    def make() -> Snapshotter:
        snapshotter = BtrfsSnapshotter(context.root)
        snapshotter.sync_behind(context.state, context.tasks)
        return snapshotter

    return await anyio.to_thread.run_sync(make)


def probe(root: Path) -> None:
    """Try a subvolume in ``root``.

    :raises Skip: it does not work, and why
    """
    for stale in root.glob("probe-*"):
        subvolumes.destroy(stale)
    scratch = root / f"probe-{os.urandom(4).hex()}"
    try:
        subvolumes.create(scratch)
        subvolumes.destroy(scratch)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
            raise Skip(f"{str(root)!r} is on {filesystem(root)}, not on btrfs") from error
        raise Skip(f"no subvolume can be made in {str(root)!r}: {error.strerror}") from error


def _probe(context: Context) -> None:
    probe(context.root)


@hookimpl
def orlop_snapshotters() -> Iterable[Provider[Snapshotter]]:
    """Offer btrfs where the root is on it."""
    yield Provider("btrfs", open=_open, probe=_probe)
