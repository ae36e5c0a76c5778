"""The content store kit over every content store there is."""

from __future__ import annotations

import dataclasses

import pytest

from orlop_plugins.content_local.store import LocalStore
from orlop_plugins.proxy.content import ProxyContentStore
from orlopd.plugin import CONTENT
from orlopd.plugin.content import ContentStore
from orlopd.plugin.errors import NotFound, OutOfRange, Unimplemented
from orlopd.plugin.values import sha256
from orlopd.testing.content_store import ContentStoreKit, Factory
from tests.support.served import proxied


class TestProxied(ContentStoreKit):
    """The same, over a socket."""

    @pytest.fixture
    def factory(self) -> Factory[ContentStore]:
        return proxied(CONTENT, LocalStore.at, ProxyContentStore)

    # What the protocol of containerd's content service cannot say.

    async def test_truncating_an_ingest(self, store: ContentStore) -> None:
        async with await store.ingest("ref") as ingest:
            await ingest.write(b"abcdef")
            with pytest.raises(OutOfRange):
                await ingest.truncate(7)
            with pytest.raises(Unimplemented, match="truncated to nothing"):
                await ingest.truncate(2)
            await ingest.truncate(0)
            await ingest.write(b"new")
            assert (await ingest.commit()).digest == sha256(b"new")

    async def test_deleting_leaves_open_readers_alone(self, store: ContentStore) -> None:
        async with await store.ingest("ref") as ingest:
            await ingest.write(b"data")
            info = await ingest.commit()
        async with await store.open(info.digest) as blob:
            await store.delete(info.digest)
            with pytest.raises(NotFound):
                await blob.read_at(0, 10)

    async def test_statuses(self, store: ContentStore) -> None:
        async with await store.ingest("open", total=10) as ingest:
            await ingest.write(b"abc")
            (found,) = [status async for status in store.ingests()]
            # The time of the last write is known to who asks, not to who writes.
            assert found == dataclasses.replace(ingest.status, updated_at=found.updated_at)
            assert found.total == 10
        with pytest.raises(NotFound):
            await store.status("missing")


class TestLocal(ContentStoreKit):
    @pytest.fixture
    def factory(self) -> Factory[ContentStore]:
        return LocalStore.at
