"""A differ at the other end of a socket, and the host whose layers it reads and writes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import anyio

from orlop_plugins.content_local.store import LocalStore
from orlop_plugins.proxy.content import ProxyContentStore
from orlop_plugins.proxy.differ import ProxyDiffer
from orlopd.config import Config
from orlopd.core.content import Content
from orlopd.core.db import Database
from orlopd.core.diffs import UNCOMPRESSED_LABEL
from orlopd.core.events import EventBus
from orlopd.core.gc import Collector
from orlopd.core.parts import Catalog
from orlopd.core.scope import Scope
from orlopd.plugin import DIFFER
from orlopd.plugin.content import BlobReader, Ingest
from orlopd.plugin.diff import Differ, Progress
from orlopd.plugin.remote import Peer
from orlopd.plugin.values import Descriptor, Mount, sha256
from orlopd.server import Server
from orlopd.server.server import Register
from orlopd.services.containerd.content import ContentService
from orlopd.services.scope import scope_of
from orlopd.services.served import service_of
from orlopd.testing._open import Factory, close_part, open_part
from tests.support.served import socket_path

NS = Scope("testing")
_PIECE = 1 << 20


class FarDiffer:
    """A proxy's differ for a kit that has blobs, not digests in a daemon's content.

    A blob goes into the host's content, from where the differ reads it; a layer that the differ wrote there
    goes to the kit's ingest. Progress and copies are what the protocol has no words for.
    """

    def __init__(self, blobs: Path, content: Content, proxy: ProxyDiffer, stack: AsyncExitStack) -> None:
        self._blobs = blobs
        self.content = content
        """The host's."""
        self.proxy = proxy
        self._stack = stack
        self._refs = (f"kit-{number}" for number in itertools.count())

    def handles(self, media_type: str) -> bool:
        return self.proxy.handles(media_type)

    async def apply(
        self,
        layer: Descriptor,
        blob: BlobReader,
        mounts: Sequence[Mount],
        *,
        progress: Progress | None = None,
    ) -> Descriptor:
        if not await self.content.find(NS, layer.digest):
            await self._bring(layer.digest, await blob.read_at(0, blob.size))
        return await self.proxy.apply_in(NS.namespace, layer, mounts)

    async def _bring(self, digest: str, data: bytes) -> None:
        if sha256(data) == digest:
            await self.content.add_blob(NS, next(self._refs), data, digest=digest)
            return
        # What is not what its name says gets into a store by a disk's fault alone.
        await anyio.Path(self._blobs / digest.replace(":", "/")).write_bytes(data)
        async with await self.content.ingest(NS, next(self._refs), expected=digest) as ingest:
            assert ingest.shared
            await ingest.commit(len(data), digest)

    async def diff(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str,
        sink: Ingest,
        *,
        newest: int | None = None,
    ) -> str:
        made = await self.proxy.diff_in(NS.namespace, lower, upper, media_type, newest=newest)
        assert made.media_type == media_type
        async with await self.content.open(NS, made.digest) as blob:
            assert blob.size == made.size
            for offset in range(0, made.size, _PIECE):
                await sink.write(await blob.read_at(offset, _PIECE))
        return (await self.content.info(NS, made.digest)).labels[UNCOMPRESSED_LABEL]

    async def unpack_tar(
        self, blob: BlobReader, mounts: Sequence[Mount], *, uids: str = "", gids: str = ""
    ) -> int:
        return await self.proxy.unpack_tar(blob, mounts, uids=uids, gids=gids)

    async def aclose(self) -> None:
        await self._stack.aclose()


def far_differ(inner: Callable[[Path], Differ]) -> Factory[Differ]:
    """How to have the differ that ``inner`` makes served as ``orlopd serve-plugin`` does, for a host."""

    async def make(root: Path) -> FarDiffer:
        for name in ("host", "peer"):
            await anyio.Path(root / name).mkdir()
        async with AsyncExitStack() as stack:
            store = await LocalStore.at(root / "host")
            db = await Database.open(root / "metadata.db")
            stack.push_async_callback(db.aclose)
            events = EventBus()
            content = Content(db, store, events, Collector(db, store, Catalog("snapshotter", {}), events))
            host = await _serve(stack, ContentService.over(content, scope_of).register)
            part = await open_part(inner, root / "peer")
            stack.push_async_callback(close_part, part)
            layers = ProxyContentStore(Peer("host", host))
            stack.push_async_callback(layers.aclose)
            service = service_of(DIFFER, part, layers)
            proxy = ProxyDiffer(Peer("far", await _serve(stack, service.register, namespaced=False)))
            stack.push_async_callback(proxy.aclose)
            return FarDiffer(root / "host/blobs", content, proxy, stack.pop_all())
        raise AssertionError("nothing above is suppressed")

    return make


async def _serve(stack: AsyncExitStack, register: Register, *, namespaced: bool = True) -> str:
    """Serve until the stack is left; the path of the socket."""
    address = socket_path()
    server = Server(Config(addresses=[address], socket_group=0), "test", namespaced=namespaced)
    stack.push_async_callback(partial(server.stop, 5))
    await server.start([register])
    return address
