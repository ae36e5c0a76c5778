"""From layers in the content store to a chain of committed snapshots.

Keys and labels are those of containerd's own unpacker, so that an image which either unpacked is
unpacked for the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import anyio

from orlopd.plugin.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
)
from orlopd.plugin.values import Descriptor, Labels, Mount, Platform, chain_id

from .arrival import Arrival
from .content import Content
from .diffs import UNCOMPRESSED_LABEL, Diffs
from .extraction import exists, extraction, labels_for
from .fetch import add_labels
from .flow import task_group
from .layers import came_by_itself, layer_hints
from .leases import Leases, Resource
from .locks import KeyedLocks
from .manifests import Manifest
from .progress import BlobKind, BlobReport, BlobState, Report, silent
from .scope import Scope
from .snapshots import NamespacedSnapshotter, Snapshots
from .stored_images import StoredImages

SNAPSHOT_LABEL = "containerd.io/gc.ref.snapshot."
"""Before a snapshotter's name: on an image's configuration, the snapshot that it is unpacked to."""

Ready = Callable[[int], Awaitable[None]]
"""Waits until the layer of this number is in the content store."""

Coming = Callable[[int], Awaitable[Arrival | None]]
"""Waits until the layer of this number begins to come; None once it is in the content store."""

_Wait = Callable[[], Awaitable[None]]
_WaitComing = Callable[[], Awaitable[Arrival | None]]


async def _present(number: int) -> None:
    return


@dataclass(eq=False)
class _Layer:
    """A layer to unpack: its blob, what it unpacks to, the chain it ends, and the one below."""

    blob: Descriptor
    diff_id: str
    chain: str
    below: _Layer | None
    ready: _Wait
    coming: _WaitComing
    done: _Wait
    hints: Labels
    committed: anyio.Event = field(default_factory=anyio.Event)


@dataclass(frozen=True, slots=True)
class _Waits:
    """What an unpack waits for, by the layers' numbers."""

    ready: Ready
    coming: Coming
    done: Ready

    def of(self, number: int) -> tuple[_Wait, _WaitComing, _Wait]:
        """Those of one layer."""
        return partial(self.ready, number), partial(self.coming, number), partial(self.done, number)


class Unpacker:
    """Unpacks images, each chain of layers once whoever asks."""

    def __init__(
        self,
        content: Content,
        stored: StoredImages,
        snapshots: Snapshots,
        diffs: Diffs,
        leases: Leases,
        *,
        default: str,
    ) -> None:
        """
        :param default: the snapshotter for calls that name none
        """
        self._content = content
        self._stored = stored
        self._snapshots = snapshots
        self._diffs = diffs
        self._leases = leases
        self._default = default
        self._locks = KeyedLocks()

    async def remote(
        self, scope: Scope, target: Descriptor, platform: Platform | None, snapshotter: str
    ) -> Sequence[bool]:
        """Of each layer of an unpacked image, whether a remote snapshotter has it and no blob is needed."""
        _, diff_ids, _ = await self._stored.image_config(scope, target, platform)
        chosen = self._snapshots.for_name(snapshotter or self._default)
        found: list[bool] = []
        for number in range(len(diff_ids)):
            try:
                info = await chosen.stat(scope, chain_id(diff_ids[: number + 1]))
            except NotFound:
                found.append(False)
            else:
                found.append(came_by_itself(info.labels))
        return found

    def beside(self, snapshotter: str) -> bool:
        """Whether layers are unpacked as they come, whatever their order."""
        return self._snapshots.for_name(snapshotter or self._default).rebases

    async def unpack(
        self,
        scope: Scope,
        target: Descriptor,
        platform: Platform | None = None,
        snapshotter: str = "",
        report: Report = silent,
        *,
        name: str = "",
        ready: Ready = _present,
        coming: Coming = _present,
        done: Ready = _present,
    ) -> str:
        """Make the image's chain of snapshots; layers that are there as snapshots are passed over.

        :param scope: without a lease, one is held for the length of the call
        :param name: the reference by which a remote snapshotter may get the layers itself
        :param ready: awaited with a layer's number before its content is needed; never for one whose snapshot
            is there, or a remote snapshotter has
        :param coming: awaited ahead of that, so that a layer is unpacked while it comes
        :param done: awaited with a layer's number when its content is not needed any more
        :returns: the chain id, the key of the topmost snapshot; "" for an image without layers
        :raises NotFound: nothing for this platform, or a document of the image is missing
        :raises FailedPrecondition: a layer is missing that has no snapshot (reason INCOMPLETE_IMAGE)
        :raises InvalidArgument: a malformed image or layer
        :raises DataLoss: a layer is not what the image's configuration says
        :raises ResourceExhausted: a limit of the differ was met, or the disk is full
        :raises Unimplemented: no differ takes a layer's media type
        """
        async with self._leases.hold(scope) as held:
            _, diff_ids, manifest = await self._stored.image_config(held, target, platform)
            if len(diff_ids) != len(manifest.layers):
                raise InvalidArgument(
                    f"image {target.digest} has {len(manifest.layers)} layers "
                    f"and {len(diff_ids)} diff ids; they must be as many",
                    reason="MALFORMED_DOCUMENT",
                )
            if not diff_ids:
                return ""
            chosen = self._snapshots.for_name(snapshotter or self._default)
            top = chain_id(diff_ids)
            kind = f"snapshots/{chosen.name}"
            # Held before it is looked for: a collection may otherwise take it between the two.
            await self._leases.add_resource(held, held.lease, Resource(kind, top))
            if not await exists(chosen, held, top):
                await self._chain(held, chosen, manifest, diff_ids, report, name, _Waits(ready, coming, done))
            info = await self._content.info(held, manifest.config.digest)
            await add_labels(self._content, held, info, {f"{SNAPSHOT_LABEL}{chosen.name}": top})
            return top

    async def _chain(
        self,
        scope: Scope,
        snapshotter: NamespacedSnapshotter,
        manifest: Manifest,
        diff_ids: Sequence[str],
        report: Report,
        name: str,
        waits: _Waits,
    ) -> None:
        parts: list[_Layer] = []
        for number, layer in enumerate(manifest.layers):
            below = parts[-1] if parts else None
            chain = chain_id(diff_ids[: number + 1])
            hints = layer_hints(name, manifest.digest, manifest.layers[number:])
            parts.append(_Layer(layer, diff_ids[number], chain, below, *waits.of(number), hints))
        parts = await self._missing(scope, snapshotter, parts)
        if snapshotter.rebases:
            async with task_group() as group:
                for part in parts:
                    group.start_soon(self._once, scope, snapshotter, part, report)
        else:
            for part in parts:
                await self._once(scope, snapshotter, part, report)

    async def _missing(
        self, scope: Scope, snapshotter: NamespacedSnapshotter, parts: Sequence[_Layer]
    ) -> list[_Layer]:
        """Those without a snapshot: all above the first of them, as a snapshot's parent is always there."""
        for number, part in enumerate(parts):
            # Held before it is looked for, as the top is.
            await self._leases.add_resource(
                scope, scope.lease, Resource(f"snapshots/{snapshotter.name}", part.chain)
            )
            if not await exists(snapshotter, scope, part.chain):
                return list(parts[number:])
            part.committed.set()
        return []

    async def _once(
        self, scope: Scope, snapshotter: NamespacedSnapshotter, layer: _Layer, report: Report
    ) -> None:
        """Unpack a layer, unless somebody else is doing that: then wait for it.

        Whoever has the lock of a chain waits for the chains below it only, so that nobody waits in a ring.
        """
        progress = BlobReport(report, layer.blob, BlobKind.LAYER)
        async with self._locks.hold(f"{scope.namespace}/{snapshotter.name}/{layer.chain}"):
            while not await self._layer(scope, snapshotter, layer, progress):
                pass
        layer.committed.set()

    async def _layer(
        self, scope: Scope, snapshotter: NamespacedSnapshotter, layer: _Layer, progress: BlobReport
    ) -> bool:
        """Have a layer's snapshot; false if it is to be done again, with a layer that came anew."""
        labels = labels_for(layer.blob, layer.chain)
        parent = layer.below.chain if layer.below else ""
        beside = bool(parent) and snapshotter.rebases
        # What another pull has unpacked while this one waited for its turn needs no blob any more.
        if beside and not await exists(snapshotter, scope, layer.chain):
            await layer.coming()
        asked = {**labels, **layer.hints}
        async with extraction(snapshotter, scope, parent, layer.chain, asked, beside=beside) as prepared:
            if prepared is None:
                return True
            key, mounts = prepared
            applied = await self._apply(scope, layer, mounts, progress)
            if applied is None:
                return False
            if applied.digest != layer.diff_id:
                raise DataLoss(
                    f"layer {layer.blob.digest} does not match: the image's configuration says it unpacks "
                    f"to {layer.diff_id}, it unpacked to {applied.digest}",
                    reason="DIFF_ID_MISMATCH",
                    resource=f"blob {layer.blob.digest}",
                )
            if layer.below:
                await layer.below.committed.wait()
            with suppress(AlreadyExists):  # by another client; then the extraction is dropped
                await snapshotter.commit(scope, layer.chain, key, labels, parent=parent)
        progress.state(BlobState.UNPACKED)
        info = await self._content.info(scope, layer.blob.digest)
        await add_labels(self._content, scope, info, {UNCOMPRESSED_LABEL: layer.diff_id})
        await layer.done()
        return True

    async def _apply(
        self, scope: Scope, layer: _Layer, mounts: Sequence[Mount], progress: BlobReport
    ) -> Descriptor | None:
        """Apply a layer, while it comes if that is possible.

        :returns: what it unpacked to; None if that is worth nothing, because the layer had to come anew
        """
        arrival = await layer.coming()
        if arrival is None or not await self._diffs.follows(layer.blob.media_type, mounts):
            await layer.ready()
            await self._check_here(scope, layer.blob)
            progress.state(BlobState.UNPACKING, 0)
            return await self._diffs.apply(
                scope, layer.blob, mounts, progress=lambda done: progress.state(BlobState.UNPACKING, done)
            )

        def tell(done: int) -> None:
            if arrival.kept:  # until then its coming is what there is to tell
                progress.state(BlobState.UNPACKING, done)

        applied, failure = None, None
        try:
            applied = await self._diffs.apply(scope, layer.blob, mounts, arriving=arrival, progress=tell)
        except OrlopError as error:
            failure = error
        # Whether it is what it should be has the first word; where it is not, this raises or ends here.
        await layer.ready()
        if arrival.dropped:
            return None
        if failure is not None:
            raise failure
        progress.state(BlobState.UNPACKING)
        return applied

    async def _check_here(self, scope: Scope, layer: Descriptor) -> None:
        try:
            await self._content.info(scope, layer.digest)
        except NotFound:
            raise FailedPrecondition(
                f"the content of the image is not all here: layer {layer.digest} is missing",
                reason="INCOMPLETE_IMAGE",
                resource=f"blob {layer.digest}",
                hint="pull the image again, for the snapshotter that is to have it",
            ) from None
