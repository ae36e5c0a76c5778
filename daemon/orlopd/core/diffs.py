"""Layers to files and files to layers: chooses the differ, and brings content and mounts to it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

import anyio.to_thread

from orlopd.plugin.content import ArrivingBlob, BlobReader
from orlopd.plugin.diff import Differ, ParticularDiffer, Progress
from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from orlopd.plugin.files import sync_filesystem
from orlopd.plugin.mount import overlay_layers
from orlopd.plugin.processor import Processor
from orlopd.plugin.remote import NO_PAYLOADS, RemoteDiffer
from orlopd.plugin.values import NO_LABELS, Descriptor, Labels, Mount

from .content import Content, ContentInfo
from .identifiers import quoted
from .processors import Payloads, Step, path_to_differ, processed
from .scope import Scope
from .shield import shielded

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
"""The media type of a layer when the caller names none."""

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"
NO_PROCESSORS: Mapping[str, Processor] = MappingProxyType({})


def general(differs: Sequence[Differ]) -> Sequence[Differ]:
    """Those that are there for any mounts."""
    return tuple(differ for differ in differs if not isinstance(differ, ParticularDiffer))


class Diffs:
    """Applies and makes layers with the first differ that handles the media type, and that suits the mounts,
    if it is particular about them."""

    def __init__(
        self, content: Content, differs: Sequence[Differ], processors: Mapping[str, Processor] = NO_PROCESSORS
    ) -> None:
        """:param processors: by id, for layers that no differ handles"""
        self._content = content
        self._particular = [differ for differ in differs if isinstance(differ, ParticularDiffer)]
        self._differs = general(differs)
        self._processors = processors

    def for_media_type(self, media_type: str) -> Differ:
        """The differ for a media type, whatever the mounts. :raises Unimplemented: there is none"""
        for differ in self._differs:
            if differ.handles(media_type):
                return differ
        raise Unimplemented(
            f"no differ handles media type {quoted(media_type)}: not implemented",
            resource=f"media type {media_type}",
        )

    async def apply(
        self,
        scope: Scope,
        layer: Descriptor,
        mounts: Sequence[Mount],
        *,
        arriving: ArrivingBlob | None = None,
        payloads: Payloads = NO_PAYLOADS,
        sync: bool = False,
        progress: Progress | None = None,
    ) -> Descriptor:
        """Unpack a layer over what ``mounts`` show. One that no differ handles goes through processors first.

        :param arriving: the layer while it comes; the caller believes nothing before it is whole
        :param payloads: what processors need, by their ids
        :param sync: what was written is durable at the end
        :returns: the descriptor of the uncompressed layer, whose digest is the diff id
        :raises NotFound: the namespace does not have the layer
        :raises Unimplemented: no differ handles its media type
        """
        steps, differ = await self._way(layer.media_type, mounts)
        if isinstance(differ, RemoteDiffer):
            await self._content.info(scope, layer.digest)  # that the namespace has it
            return await differ.apply_in(scope.namespace, layer, mounts, payloads=payloads, sync=sync)
        async with (
            arriving or await self._content.open(scope, layer.digest) as blob,
            processed(layer, blob, steps, payloads) as (given, stream),
        ):
            applied = await differ.apply(given, stream, mounts, progress=progress)
        if sync:
            await anyio.to_thread.run_sync(_sync, mounts)
        return applied

    async def unpack(self, blob: BlobReader, mounts: Sequence[Mount]) -> int:
        """Unpack a plain or compressed tar that is no layer; the bytes of files written.

        :raises OrlopError: as :meth:`orlopd.plugin.diff.Differ.unpack_tar`
        :raises Unimplemented: no differ is there that does so
        """
        for differ in self._differs:
            if not isinstance(differ, RemoteDiffer):
                return await differ.unpack_tar(blob, mounts)
        raise Unimplemented("no differ is there to unpack with", reason="NO_DIFFER")

    async def follows(self, media_type: str, mounts: Sequence[Mount]) -> bool:
        """Whether a layer can be applied while it comes. :raises Unimplemented: no differ handles it"""
        steps, differ = await self._way(media_type, mounts)
        return not steps and not isinstance(differ, RemoteDiffer)

    async def _way(self, media_type: str, mounts: Sequence[Mount]) -> tuple[Sequence[Step], Differ]:
        for differ in self._particular:
            if differ.handles(media_type) and await differ.suits(mounts):
                return (), differ
        if not any(differ.handles(media_type) for differ in self._differs):
            found = path_to_differ(media_type, self._processors, self._differs)
            if found is not None:
                return found
        return (), self.for_media_type(media_type)

    async def diff(
        self,
        scope: Scope,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels = NO_LABELS,
        newest: int | None = None,
    ) -> Descriptor:
        """Make the layer that turns ``lower`` into ``upper``, and keep it as content.

        The content has ``labels`` and ``containerd.io/uncompressed``, the diff id.

        :param ref: the ingest to write to; one of our own, gone at the end, when empty
        :param newest: in nanoseconds since 1970; later times are written as this one
        :raises Unimplemented: no differ writes this media type
        """
        media_type = media_type or LAYER
        differ = self.for_media_type(media_type)
        if isinstance(differ, RemoteDiffer):
            return await differ.diff_in(
                scope.namespace, lower, upper, media_type, ref=ref, labels=labels, newest=newest
            )
        own = not ref
        ref = ref or f"diff-{secrets.token_hex(12)}"
        try:
            async with await self._content.ingest(scope, ref) as sink:
                if sink.status.offset:
                    await sink.truncate(0)
                diff_id = await differ.diff(lower, upper, media_type, sink, newest=newest)
                size, digest = sink.status.offset, await sink.digest()
                if not size:
                    raise InvalidArgument("the differ wrote nothing")
                labels = {**labels, UNCOMPRESSED_LABEL: diff_id}
                try:
                    await sink.commit(size, digest, labels)
                except AlreadyExists:
                    await self._content.update(
                        scope, ContentInfo(digest, labels=labels), [f"labels.{key}" for key in labels]
                    )
        except BaseException:
            if own:
                with shielded(), suppress(NotFound):
                    await self._content.abort(scope, ref)
            raise
        return Descriptor(media_type, digest, size)


def _sync(mounts: Sequence[Mount]) -> None:
    """Make durable what was written through ``mounts``. What else there is was so when it was unmounted."""
    for mount in mounts:
        if mount.type == "overlay":
            path = overlay_layers(mount).upper
        else:
            path = mount.source if {"bind", "rbind"} & {mount.type, *mount.options} else ""
        if path:
            sync_filesystem(path)
