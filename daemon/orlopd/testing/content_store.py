"""The kit for content stores."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlopd.plugin.content import BulkContentStore, ContentStore
from orlopd.plugin.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
    OutOfRange,
    Unavailable,
)
from orlopd.plugin.values import BlobInfo, sha256

from ._open import Factory, close_part, open_part, opened

HOSTILE_REFS = ("../../etc/passwd", "/etc/passwd", "a/../../b", ".", "..", "\n", "é" * 4000, "x" * 4096)
BAD_DIGESTS = (
    "",
    "sha256",
    "sha256:",
    "sha256:abc",
    "md5:" + "0" * 32,
    "sha256:" + "../" * 21 + "a",
    "sha256:" + "A" * 64,
)


async def add(store: ContentStore, data: bytes, ref: str = "add") -> BlobInfo:
    """Commit a blob."""
    async with await store.ingest(ref) as ingest:
        await ingest.write(data)
        return await ingest.commit()


async def read(store: ContentStore, digest: str) -> bytes:
    """A whole blob."""
    async with await store.open(digest) as blob:
        data = b""
        while part := await blob.read_at(len(data), 65536):
            data += part
        return data


@pytest.mark.anyio
class ContentStoreKit:
    """Derive from it and define the fixture ``factory``."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def factory(self) -> Factory[ContentStore]:
        """How to make the store."""
        raise NotImplementedError("define a fixture 'factory' that returns how to make the store")

    @pytest.fixture
    async def store(
        self, factory: Factory[ContentStore], tmp_path: Path, anyio_backend: Any
    ) -> AsyncGenerator[ContentStore]:
        async with opened(factory, tmp_path) as part:
            yield part

    async def test_what_was_written_can_be_read(self, store: ContentStore) -> None:
        data = bytes(range(256)) * 5000
        async with await store.ingest("ref") as ingest:
            for at in range(0, len(data), 100_000):
                await ingest.write(data[at : at + 100_000])
            info = await ingest.commit(len(data), sha256(data))
        assert (info.digest, info.size) == (sha256(data), len(data))
        assert await read(store, info.digest) == data
        async with await store.open(info.digest) as blob:
            assert blob.size == len(data)
            assert await blob.read_at(10, 5) == data[10:15]
            assert await blob.read_at(len(data) - 3, 100) == data[-3:]
            assert await blob.read_at(len(data), 1) == b""
            assert blob.path is None or await anyio.Path(blob.path).read_bytes() == data
        assert (await store.info(info.digest)).size == len(data)
        assert [found.digest async for found in store.blobs()] == [info.digest]

    async def test_an_empty_blob(self, store: ContentStore) -> None:
        info = await add(store, b"")
        assert (info.digest, info.size) == (sha256(b""), 0)
        assert await read(store, info.digest) == b""

    async def test_sha512(self, store: ContentStore) -> None:
        digest = "sha512:" + hashlib.sha512(b"data").hexdigest()
        async with await store.ingest("one") as ingest:
            await ingest.write(b"data")
            assert await ingest.digest() == sha256(b"data")
            assert (await ingest.commit(4, digest)).digest == digest
        assert await read(store, digest) == b"data"
        with pytest.raises(NotFound):
            await store.info(sha256(b"data"))
        with pytest.raises(AlreadyExists):
            await store.ingest("two", expected=digest)

    async def test_nothing_is_there_before_the_commit(self, store: ContentStore) -> None:
        async with await store.ingest("ref") as ingest:
            await ingest.write(b"data")
            with pytest.raises(NotFound):
                await store.info(sha256(b"data"))
            assert [info async for info in store.blobs()] == []

    async def test_many_are_deleted_at_once_if_it_can(self, store: ContentStore) -> None:
        if not isinstance(store, BulkContentStore):
            return
        digests = [(await add(store, bytes([number]))).digest for number in range(70)]
        refused = await store.delete_many([*digests[:69], sha256(b"none")])
        assert {digest: type(error) for digest, error in refused.items()} == {sha256(b"none"): NotFound}
        assert [info.digest async for info in store.blobs()] == digests[69:]
        assert await store.delete_many([]) == {}

    async def test_an_ingest_goes_on_where_it_was_left(self, store: ContentStore) -> None:
        async with await store.ingest("ref", total=6, expected=sha256(b"abcdef")) as ingest:
            await ingest.write(b"abc")
            started = ingest.status.started_at
        async with await store.ingest("ref") as ingest:
            status = ingest.status
            assert (status.ref, status.offset, status.total) == ("ref", 3, 6)
            assert (status.expected, status.started_at) == (sha256(b"abcdef"), started)
            await ingest.write(b"def")
            assert await ingest.digest() == sha256(b"abcdef")
            await ingest.commit(6, sha256(b"abcdef"))
        assert await read(store, sha256(b"abcdef")) == b"abcdef"

    async def test_an_ingest_survives_a_crash(self, factory: Factory[ContentStore], tmp_path: Path) -> None:
        first = await open_part(factory, tmp_path)
        done = await add(first, b"committed")
        left = await first.ingest("ref", total=6)
        await left.write(b"abc")
        try:
            async with opened(factory, tmp_path) as second:
                assert await read(second, done.digest) == b"committed"
                assert (await second.status("ref")).offset == 3
                async with await second.ingest("ref") as ingest:
                    await ingest.write(b"def")
                    assert (await ingest.commit(6)).digest == sha256(b"abcdef")
        finally:
            await left.__aexit__(None, None, None)
            await close_part(first)

    async def test_a_ref_has_one_writer(self, store: ContentStore) -> None:
        async with await store.ingest("ref") as ingest:
            with pytest.raises(Unavailable):
                await store.ingest("ref")
            async with await store.ingest("other"):
                pass
            await ingest.write(b"x")
        async with await store.ingest("ref") as ingest:
            assert ingest.status.offset == 1

    async def test_a_wrong_size_or_digest_is_refused_and_nothing_lost(self, store: ContentStore) -> None:
        async with await store.ingest("ref") as ingest:
            await ingest.write(b"data")
            for size, digest in ((5, ""), (4, sha256(b"other")), (0, sha256(b"other"))):
                with pytest.raises(FailedPrecondition):
                    await ingest.commit(size, digest)
        assert (await store.status("ref")).offset == 4
        assert [info async for info in store.blobs()] == []
        async with await store.ingest("ref") as ingest:
            await ingest.commit(4, sha256(b"data"))

    async def test_truncating_an_ingest(self, store: ContentStore) -> None:
        async with await store.ingest("ref") as ingest:
            await ingest.write(b"abcdef")
            with pytest.raises(OutOfRange):
                await ingest.truncate(7)
            await ingest.truncate(2)
            assert ingest.status.offset == 2
            await ingest.write(b"X")
            assert await ingest.digest() == sha256(b"abX")
            await ingest.truncate(0)
            await ingest.write(b"new")
            assert (await ingest.commit()).digest == sha256(b"new")

    async def test_committing_what_is_there(self, store: ContentStore) -> None:
        await add(store, b"data")
        async with await store.ingest("again") as ingest:
            await ingest.write(b"data")
            with pytest.raises(AlreadyExists):
                await ingest.commit()
        with pytest.raises(NotFound):
            await store.status("again")
        with pytest.raises(AlreadyExists):
            await store.ingest("third", expected=sha256(b"data"))
        assert [status async for status in store.ingests()] == []

    async def test_statuses(self, store: ContentStore) -> None:
        async with await store.ingest("open", total=10) as ingest:
            await ingest.write(b"abc")
            async with await store.ingest("left") as other:
                await other.write(b"x")
            found = {status.ref: status async for status in store.ingests()}
            assert {ref: status.offset for ref, status in found.items()} == {"open": 3, "left": 1}
            assert await store.status("open") == ingest.status
            assert found["open"].total == 10
        with pytest.raises(NotFound):
            await store.status("missing")

    async def test_aborting(self, store: ContentStore) -> None:
        async with await store.ingest("ref") as ingest:
            await ingest.write(b"abc")
        await store.abort("ref")
        for call in (store.abort("ref"), store.status("ref")):
            with pytest.raises(NotFound):
                await call
        async with await store.ingest("ref") as ingest:
            assert ingest.status.offset == 0

    async def test_aborting_under_a_writer(self, store: ContentStore) -> None:
        async with await store.ingest("ref") as ingest:
            await ingest.write(b"abc")
            await store.abort("ref")
            with pytest.raises(OrlopError):
                await ingest.commit()
        async with await store.ingest("ref") as ingest:
            assert ingest.status.offset == 0
            await ingest.write(b"new")
            await ingest.commit()
        assert await read(store, sha256(b"new")) == b"new"

    async def test_deleting_leaves_open_readers_alone(self, store: ContentStore) -> None:
        info = await add(store, b"data")
        async with await store.open(info.digest) as blob:
            await store.delete(info.digest)
            assert await blob.read_at(0, 10) == b"data"
        for call in (store.info(info.digest), store.open(info.digest), store.delete(info.digest)):
            with pytest.raises(NotFound):
                await call

    @pytest.mark.parametrize("ref", HOSTILE_REFS)
    async def test_a_ref_is_never_a_path(self, store: ContentStore, tmp_path: Path, ref: str) -> None:
        async with await store.ingest(ref) as ingest:
            await ingest.write(b"x")
        assert [status.ref async for status in store.ingests()] == [ref]
        await store.abort(ref)

    @pytest.mark.parametrize("ref", ["", "x" * 4097])
    async def test_a_ref_has_a_length(self, store: ContentStore, ref: str) -> None:
        with pytest.raises(InvalidArgument):
            await store.ingest(ref)

    @pytest.mark.parametrize("digest", BAD_DIGESTS)
    async def test_cve_2024_3727_a_digest_is_checked_before_it_is_a_path(
        self, store: ContentStore, digest: str
    ) -> None:
        for call in (store.info(digest), store.open(digest), store.delete(digest)):
            with pytest.raises(InvalidArgument):
                await call
        if digest:
            with pytest.raises(InvalidArgument):
                await store.ingest("ref", expected=digest)
            async with await store.ingest("ref") as ingest:
                with pytest.raises(InvalidArgument):
                    await ingest.commit(0, digest)
