"""What is stored of an image: the manifest and the configuration that serve a platform."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from orlopd.plugin.errors import NotFound
from orlopd.plugin.values import Descriptor, Platform

from . import manifests, platforms
from .content import Content
from .manifests import ImageConfig, Manifest
from .scope import Scope


class StoredImages:
    """Images as the content store has them, from whatever descriptor their name stands for."""

    def __init__(self, content: Content) -> None:
        self._content = content

    async def find_manifest(
        self, scope: Scope, target: Descriptor, platform: Platform | None = None
    ) -> tuple[Descriptor, Manifest]:
        """The manifest that serves ``platform``, this machine's by default, among what is stored.

        :raises NotFound: the image has none for it, or its content is not here
        :raises InvalidArgument: what is stored is malformed
        """
        want = platform or platforms.current()
        offered, searched = "", set[str]()

        async def search(descriptor: Descriptor, depth: int) -> tuple[Descriptor, Manifest] | None:
            nonlocal offered
            if descriptor.digest in searched or len(searched) >= manifests.MAX_SEARCHED:
                return None
            searched.add(descriptor.digest)
            data = await self._document(scope, descriptor)
            if descriptor.media_type in manifests.MANIFEST_TYPES:
                return descriptor, manifests.parse_manifest(descriptor, data)
            index = manifests.parse_index(descriptor, data)
            offered = offered or manifests.offered(index)
            for child in manifests.candidates(index, want) if depth < manifests.MAX_DEPTH else ():
                try:
                    found = await search(child, depth + 1)
                    if found and await self._serves(scope, found[1], want, child.platform):
                        return found
                except NotFound:
                    continue
            return None

        manifests.check_pullable(target, target.digest)
        found = await search(target, 0)
        if found is None:
            raise NotFound(
                f"image {target.digest} has nothing here for {platforms.normalize(want)}; "
                f"it is for: {offered}",
                reason="PLATFORM_NOT_FOUND",
                resource=f"image {target.digest}",
            )
        return found

    async def find_serving(
        self, scope: Scope, target: Descriptor, platform: Platform | None = None
    ) -> tuple[Descriptor, Manifest]:
        """As :meth:`find_manifest`, but a manifest that is no index's child is held to what its configuration
        says it is for, where that is here."""
        descriptor, manifest = await self.find_manifest(scope, target, platform)
        config: ImageConfig | None = None
        if descriptor.digest == target.digest and manifest.is_image:
            with suppress(NotFound):
                config = await self._config(scope, manifest)
        if config is not None:
            manifests.check_serves(target, config, platform or platforms.current())
        return descriptor, manifest

    async def image_config(
        self, scope: Scope, target: Descriptor, platform: Platform | None = None
    ) -> tuple[ImageConfig, Sequence[str], Manifest]:
        """The configuration, the diff ids (bottom first) and the manifest that serve ``platform``.

        :raises NotFound: the image has nothing for it, or its content is not here
        :raises InvalidArgument: it is malformed, or is no container image
        """
        descriptor, manifest = await self.find_manifest(scope, target, platform)
        config = await self._config(scope, manifest)
        # An index's word about its children has been heard already, and counts for more.
        if descriptor.digest == target.digest:
            manifests.check_serves(target, config, platform or platforms.current())
        return config, config.diff_ids, manifest

    async def let_layers_go(self, scope: Scope, target: Descriptor, platform: Platform | None) -> None:
        """Have an image's manifest not keep its layers any more. What else needs one keeps it.

        :raises NotFound: nothing for this platform
        """
        descriptor, manifest = await self.find_manifest(scope, target, platform)
        info = await self._content.info(scope, descriptor.digest)
        going = {manifests.layer_label(number): "" for number in range(len(manifest.layers))}
        if going.keys() & info.labels.keys():
            changed = replace(info, labels={**info.labels, **going})
            await self._content.update(scope, changed, [f"labels.{key}" for key in going])

    async def _serves(
        self, scope: Scope, manifest: Manifest, want: Platform, declared: Platform | None
    ) -> bool:
        """A child that does not declare its platform is asked for its configuration's."""
        if declared is not None:
            return True
        return manifest.is_image and manifests.check_platform(await self._config(scope, manifest), want)

    async def _config(self, scope: Scope, manifest: Manifest) -> ImageConfig:
        return manifests.parse_config(manifest.config, await self._document(scope, manifest.config))

    async def _document(self, scope: Scope, descriptor: Descriptor) -> bytes:
        manifests.check_size(descriptor)
        return await self._content.read_blob(scope, descriptor.digest, manifests.MAX_DOCUMENT)
