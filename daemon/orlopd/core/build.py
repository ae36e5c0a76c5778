"""Build: from a tar of a root filesystem to an image of one layer. Same tar, same digest."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import anyio

from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound
from orlopd.plugin.values import Descriptor, Image, Platform, sha256

from . import manifests, platforms
from .compression import Gzip, plain
from .content import Content
from .diffs import UNCOMPRESSED_LABEL
from .documents import descriptor_object, dump, platform_object
from .healthcheck import Healthcheck
from .images import Images
from .leases import Leases
from .manifests import ImageConfig
from .oci.users import check_user
from .pull import store_image
from .references import parse_reference
from .scope import Scope
from .signals import parse_signal
from .tarstream import END, TarReader, padding

_EPOCH = "1970-01-01T00:00:00Z"
_NO_CONFIG = ImageConfig(Platform("", ""))


class Builder:
    """Makes images of root filesystems."""

    def __init__(self, content: Content, images: Images, leases: Leases) -> None:
        self._content = content
        self._images = images
        self._leases = leases

    async def build_image(
        self,
        scope: Scope,
        stream: AsyncIterator[bytes],
        name: str,
        config: ImageConfig = _NO_CONFIG,
        platform: Platform | None = None,
    ) -> Image:
        """Store the tar as a layer, write configuration and manifest, name the image.

        :param stream: a tar, plain or with gzip; taken as it comes, so order and times are the sender's
        :param name: a reference; familiar names are completed
        :param config: its platform and diff ids are ignored
        :param platform: this machine's by default
        :raises InvalidArgument: malformed name, user or signal, or no tar; nothing is kept
        """
        reference = parse_reference(name)
        if reference.digest:
            raise InvalidArgument(
                f"an image cannot be built under the digest in {name!r}: it is not known before",
                reason="MALFORMED_REFERENCE",
            )
        if config.stop_signal:
            parse_signal(config.stop_signal)
        if config.user:
            check_user(config.user)
        want = platforms.normalize(platform) if platform else platforms.current()
        async with self._leases.hold(scope) as held:
            layer, diff_id = await self._layer(held, stream)
            target = await self._documents(held, config, want, layer, diff_id)
            return await store_image(self._images, held, reference.name, target)

    async def _layer(self, scope: Scope, stream: AsyncIterator[bytes]) -> tuple[Descriptor, str]:
        ref = f"build-{secrets.token_hex(8)}"
        gzip = Gzip()
        try:
            async with await self._content.ingest(scope, ref) as ingest:
                async with aclosing(_checked(stream)) as pieces:
                    async for piece in pieces:
                        if ready := await gzip.write(piece):
                            await ingest.write(ready)
                await ingest.write(await gzip.finish())
                digest, size = await ingest.digest(), ingest.status.offset
                with suppress(AlreadyExists):
                    await ingest.commit(size, digest, {UNCOMPRESSED_LABEL: gzip.diff_id})
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(NotFound):
                await self._content.abort(scope, ref)
            raise
        return Descriptor(manifests.OCI_LAYER_GZIP, digest, size), gzip.diff_id

    async def _documents(
        self, scope: Scope, config: ImageConfig, platform: Platform, layer: Descriptor, diff_id: str
    ) -> Descriptor:
        config_data = _config_document(config, platform, diff_id)
        config_descriptor = Descriptor(manifests.OCI_CONFIG, sha256(config_data), len(config_data))
        data = dump(
            {
                "schemaVersion": 2,
                "mediaType": manifests.OCI_MANIFEST,
                "config": descriptor_object(config_descriptor),
                "layers": [descriptor_object(layer)],
            }
        )
        target = Descriptor(manifests.OCI_MANIFEST, sha256(data), len(data))
        await add_document(self._content, scope, config_descriptor, config_data)
        await add_document(self._content, scope, target, data)
        return target


async def add_document(content: Content, scope: Scope, descriptor: Descriptor, data: bytes) -> None:
    """Store a document of our making, with the labels that keep what it points at."""
    labels = manifests.child_labels(descriptor, data)
    ref = f"document-{secrets.token_hex(8)}"
    await content.add_blob(scope, ref, data, digest=descriptor.digest, labels=labels)


async def _checked(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The tar as it came, every header read, ended the one way. :raises InvalidArgument: it is no tar"""
    async with aclosing(plain(stream)) as chunks:
        reader = TarReader(chunks)
        while (member := await reader.next()) is not None:
            yield bytes(reader.raw)
            async for piece in reader.data():
                yield piece
            yield padding(member.size)
        # What follows the end is padding to the writer's taste, which would change the digest.
        async for _ in chunks:
            pass
    yield END


def _config_document(config: ImageConfig, platform: Platform, diff_id: str) -> bytes:
    pairs: dict[str, Any] = {
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Env": list(config.env),
        "WorkingDir": config.working_dir,
        "User": config.user,
        "StopSignal": config.stop_signal,
        "Labels": dict(config.labels),
        "Healthcheck": _healthcheck(config.healthcheck) if config.healthcheck else {},
        "Volumes": {path: {} for path in config.volumes},
        "ExposedPorts": {port: {} for port in config.exposed_ports},
    }
    return dump(
        {
            **platform_object(platform),
            "created": _EPOCH,
            "config": {key: value for key, value in pairs.items() if value},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": _EPOCH, "created_by": "orlop image build"}],
        }
    )


def _healthcheck(check: Healthcheck) -> dict[str, Any]:
    pairs: dict[str, Any] = {
        "Test": list(check.test),
        "Interval": round(check.interval * 1_000_000_000),
        "Timeout": round(check.timeout * 1_000_000_000),
        "StartPeriod": round(check.start_period * 1_000_000_000),
        "StartInterval": round(check.start_interval * 1_000_000_000),
        "Retries": check.retries,
    }
    return {key: value for key, value in pairs.items() if value}
