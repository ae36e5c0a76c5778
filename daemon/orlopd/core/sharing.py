"""Sharing: an image of one namespace, read-only in another, without a byte copied or sent."""

from __future__ import annotations

from orlopd.plugin.errors import NotFound
from orlopd.plugin.values import Descriptor, Image

from . import manifests
from .content import Content
from .diffs import UNCOMPRESSED_LABEL
from .images import Images
from .leases import Leases, Resource
from .pull import store_image
from .push import SOURCE_LABEL
from .scope import Scope

_SHARED = (manifests.KEEPS, SOURCE_LABEL, UNCOMPRESSED_LABEL)
"""How the labels begin that are about the content itself, not about what its namespace does with it."""


class Sharer:
    """Gives other namespaces what is here of an image."""

    def __init__(self, content: Content, images: Images, leases: Leases) -> None:
        self._content = content
        self._images = images
        self._leases = leases

    async def share(self, scope: Scope, image: Image, other: Scope, name: str) -> Image:
        """Name an image of ``scope`` in another namespace. Blobs never change, and go when neither has them.

        Who asks may act in both, so this is not for the daemon's policy on content that others bring.

        :param name: what the other is to call it; a name that is taken moves
        :raises NotFound: the image's target is not here
        :raises InvalidArgument: what is stored is malformed
        """
        async with self._leases.hold(scope) as held, self._leases.hold(other) as taking:
            await self._leases.add_resource(held, held.lease, Resource("content", image.target.digest))
            await self._content.info(held, image.target.digest)
            found: set[str] = set()
            await self._collect(held, image.target, found, 0)
            await self._content.share(held, taking, sorted(found), _SHARED)
            return await store_image(self._images, taking, name, image.target)

    async def _collect(self, scope: Scope, descriptor: Descriptor, found: set[str], depth: int) -> None:
        if descriptor.digest in found:
            return
        try:
            await self._content.info(scope, descriptor.digest)
        except NotFound:
            return
        found.add(descriptor.digest)
        if descriptor.media_type not in manifests.INDEX_TYPES | manifests.MANIFEST_TYPES:
            return
        if depth > manifests.MAX_DEPTH:
            raise manifests.malformed("its indexes are nested too deep", "TOO_DEEP")
        manifests.check_size(descriptor)
        data = await self._content.read_blob(scope, descriptor.digest, manifests.MAX_DOCUMENT)
        for child in manifests.children(descriptor, data):
            await self._collect(scope, child, found, depth + 1)
