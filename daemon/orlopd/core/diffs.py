"""Layers to files and files to layers: chooses the differ, and brings content and mounts to it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress

from orlopd.plugin.diff import Differ, Progress
from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from orlopd.plugin.remote import RemoteDiffer
from orlopd.plugin.values import NO_LABELS, Descriptor, Labels, Mount

from .content import Content, ContentInfo
from .identifiers import quoted
from .scope import Scope
from .shield import shielded

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
"""The media type of a layer when the caller names none."""

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"


class Diffs:
    """Applies and makes layers with the first differ that handles the media type."""

    def __init__(self, content: Content, differs: Sequence[Differ]) -> None:
        self._content = content
        self._differs = tuple(differs)

    def for_media_type(self, media_type: str) -> Differ:
        """The differ for a media type. :raises Unimplemented: there is none"""
        for differ in self._differs:
            if differ.handles(media_type):
                return differ
        raise Unimplemented(
            f"no differ handles media type {quoted(media_type)}: not implemented",
            resource=f"media type {media_type}",
        )

    async def apply(
        self, scope: Scope, layer: Descriptor, mounts: Sequence[Mount], *, progress: Progress | None = None
    ) -> Descriptor:
        """Unpack a layer over what ``mounts`` show.

        :returns: the descriptor of the uncompressed layer, whose digest is the diff id
        :raises NotFound: the namespace does not have the layer
        :raises Unimplemented: no differ handles its media type
        """
        differ = self.for_media_type(layer.media_type)
        if isinstance(differ, RemoteDiffer):
            await self._content.info(scope, layer.digest)  # that the namespace has it
            return await differ.apply_in(scope.namespace, layer, mounts)
        async with await self._content.open(scope, layer.digest) as blob:
            return await differ.apply(layer, blob, mounts, progress=progress)

    async def diff(
        self,
        scope: Scope,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels = NO_LABELS,
    ) -> Descriptor:
        """Make the layer that turns ``lower`` into ``upper``, and keep it as content.

        The content has ``labels`` and ``containerd.io/uncompressed``, the diff id.

        :param ref: the ingest to write to; one of our own, gone at the end, when empty
        :raises Unimplemented: no differ writes this media type
        """
        media_type = media_type or LAYER
        differ = self.for_media_type(media_type)
        if isinstance(differ, RemoteDiffer):
            return await differ.diff_in(scope.namespace, lower, upper, media_type, ref=ref, labels=labels)
        own = not ref
        ref = ref or f"diff-{secrets.token_hex(12)}"
        try:
            async with await self._content.ingest(scope, ref) as sink:
                if sink.status.offset:
                    await sink.truncate(0)
                diff_id = await differ.diff(lower, upper, media_type, sink)
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
