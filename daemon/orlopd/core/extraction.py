"""The snapshot that a layer is unpacked into, and what snapshotters are told of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

import anyio

from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, NotFound
from orlopd.plugin.snapshots import REBASE_LABEL, TARGET_LABEL
from orlopd.plugin.values import Descriptor, Labels, Mount

from .scope import Scope
from .snapshots import NamespacedSnapshotter

_INHERITED = "containerd.io/snapshot/"


@asynccontextmanager
async def extraction(
    snapshotter: NamespacedSnapshotter,
    scope: Scope,
    parent: str,
    chain: str,
    labels: Labels,
    *,
    beside: bool,
) -> AsyncGenerator[tuple[str, Sequence[Mount]] | None]:
    """An active snapshot to unpack into, removed at the end unless it was committed.

    :param beside: its parent is not there yet; it gets it when it is committed
    None where the chain is there already, be it by an earlier unpack or because a remote snapshotter
    has it. The scope's lease holds it either way.
    """
    for attempt in range(3):
        key = f"extract-{time.time_ns() % 10**9}-{secrets.token_urlsafe(3)} {chain}"
        try:
            if beside:
                mounts = await snapshotter.prepare(scope, key, "", {**labels, REBASE_LABEL: "true"})
            else:
                mounts = await snapshotter.prepare(scope, key, parent, labels)
            break
        except AlreadyExists:
            if await exists(snapshotter, scope, chain):
                yield None
                return
            if attempt == 2:
                raise
    else:  # pragma: no cover
        raise AssertionError("unreachable")
    try:
        yield key, mounts
    finally:
        with anyio.CancelScope(shield=True):
            with suppress(NotFound, FailedPrecondition):
                await snapshotter.remove(scope, key)


async def exists(snapshotter: NamespacedSnapshotter, scope: Scope, key: str) -> bool:
    """Whether there is a snapshot of this key."""
    try:
        await snapshotter.stat(scope, key)
    except NotFound:
        return False
    return True


def labels_for(layer: Descriptor, chain: str) -> Labels:
    """What snapshotters want to know: the chain id, and what the image tells them by annotations."""
    inherited = {key: value for key, value in layer.annotations.items() if key.startswith(_INHERITED)}
    return {**inherited, TARGET_LABEL: chain}
