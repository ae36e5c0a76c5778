"""A content store over a socket (containerd.services.content.v1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import anyio.lowlevel
import grpc.aio

from orlop_protos.containerd.services.content.v1 import content_pb2 as api
from orlop_protos.containerd.services.content.v1 import content_pb2_grpc
from orlopd.plugin.content import BlobReader, ContentStore, Ingest
from orlopd.plugin.errors import FailedPrecondition, OutOfRange, Unavailable, Unimplemented
from orlopd.plugin.remote import Peer
from orlopd.plugin.values import NO_LABELS, BlobInfo, IngestStatus, Labels

from .connection import Connection, from_timestamp, header

_PIECE = 1 << 20


class ProxyContentStore:
    """Implements :class:`orlopd.plugin.remote.ScopedContentStore` and, for a namespace,
    :class:`orlopd.plugin.remote.LabelledContentStore`."""

    def __init__(self, peer: Peer, *, connection: Connection | None = None, namespace: str = "") -> None:
        self._connection = connection or Connection(peer)
        self._namespace = namespace

    def scoped(self, namespace: str) -> ContentStore:
        return ProxyContentStore(self._connection.peer, connection=self._connection, namespace=namespace)

    @property
    def _stub(self) -> Any:
        return content_pb2_grpc.ContentStub(self._connection.channel)

    async def _call(self, method: Any, request: Any) -> Any:
        return await self._connection.call(method, request, self._namespace)

    async def info(self, digest: str) -> BlobInfo:
        return _blob((await self._call(self._stub.Info, api.InfoRequest(digest=digest))).info)

    async def blobs(self) -> AsyncIterator[BlobInfo]:
        request = api.ListContentRequest()
        async for response in self._connection.stream(self._stub.List, request, self._namespace):
            for info in response.info:
                yield _blob(info)

    async def open(self, digest: str) -> BlobReader:
        return _Reader(self, digest, (await self.info(digest)).size)

    async def read(self, digest: str, offset: int, size: int) -> bytes:
        """A piece of a blob."""
        request = api.ReadContentRequest(digest=digest, offset=offset, size=size)
        pieces = [
            response.data
            async for response in self._connection.stream(self._stub.Read, request, self._namespace)
        ]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def delete(self, digest: str) -> None:
        await self._call(self._stub.Delete, api.DeleteContentRequest(digest=digest))

    async def set_labels(self, digest: str, labels: Labels, paths: Sequence[str] = ()) -> Labels:
        request = api.UpdateRequest(info=api.Info(digest=digest, labels=labels))
        request.update_mask.paths.extend(paths or ("labels",))
        return dict((await self._call(self._stub.Update, request)).info.labels)

    async def ingest(self, ref: str, *, total: int = 0, expected: str = "") -> Ingest:
        ingest = _Ingest(self._connection, self._namespace, ref, total, expected)
        await ingest.begin()
        return ingest

    async def status(self, ref: str) -> IngestStatus:
        return _status((await self._call(self._stub.Status, api.StatusRequest(ref=ref))).status)

    async def ingests(self) -> AsyncIterator[IngestStatus]:
        said = await self._call(self._stub.ListStatuses, api.ListStatusesRequest())
        for status in said.statuses:
            yield _status(status)

    async def abort(self, ref: str) -> None:
        await self._call(self._stub.Abort, api.AbortRequest(ref=ref))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()


class _Reader:
    def __init__(self, store: ProxyContentStore, digest: str, size: int) -> None:
        self._store = store
        self._digest = digest
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    @property
    def path(self) -> str | None:
        return None

    async def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self._size - offset)
        return await self._store.read(self._digest, offset, size) if size > 0 else b""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class _Ingest:
    """A stream of writes, each of which is answered."""

    def __init__(self, connection: Connection, namespace: str, ref: str, total: int, expected: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._ref = ref
        self._total = total
        self._expected = expected
        self._call: Any = None
        self._status: IngestStatus | None = None

    async def begin(self) -> None:
        """Open a stream, and ask where the ingest stands."""
        stub: Any = content_pb2_grpc.ContentStub(self._connection.channel)
        self._call = stub.Write(metadata=header(self._namespace))
        said = await self._ask(
            api.WriteContentRequest(
                action=api.STAT, ref=self._ref, total=self._total, expected=self._expected
            )
        )
        status = (
            await self._connection.call(stub.Status, api.StatusRequest(ref=self._ref), self._namespace)
        ).status
        self._status = replace(
            _status(status),
            offset=said.offset,
            total=self._total or status.total,
            expected=self._expected or status.expected,
        )

    async def _ask(self, request: api.WriteContentRequest) -> Any:
        try:
            await self._call.write(request)
            said = await self._call.read()
        except asyncio.InvalidStateError:
            said = grpc.aio.EOF
        except grpc.aio.AioRpcError as error:
            raise self._connection.error(error) from error
        except asyncio.CancelledError:
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise
        if said is grpc.aio.EOF:
            try:
                await self._call  # raises what ended it
            except grpc.aio.AioRpcError as error:
                raise self._connection.error(error) from error
            except TypeError:
                pass
            raise Unavailable(f"proxy plugin {self._connection.peer.name} ended the write to {self._ref!r}")
        return said

    @property
    def status(self) -> IngestStatus:
        assert self._status is not None
        return self._status

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            said = await self._ask(
                api.WriteContentRequest(action=api.WRITE, offset=self.status.offset, data=piece)
            )
            self._move(said.offset)

    async def truncate(self, offset: int) -> None:
        if offset > self.status.offset:
            raise OutOfRange(f"cannot truncate ingest {self._ref!r} to {offset}: it has {self.status.offset}")
        if 0 < offset < self.status.offset:
            raise Unimplemented(f"ingest {self._ref!r} can only be truncated to nothing over a socket")
        if offset < self.status.offset:
            # A write at the beginning is how the protocol says it.
            said = await self._ask(api.WriteContentRequest(action=api.WRITE, offset=0))
            self._move(said.offset)

    def _move(self, offset: int) -> None:
        self._status = replace(self.status, offset=offset)

    async def digest(self) -> str:
        said = await self._ask(api.WriteContentRequest(action=api.STAT))
        return said.digest

    async def commit(self, size: int = 0, digest: str = "") -> BlobInfo:
        return await self.commit_labelled(size, digest, NO_LABELS)

    async def commit_labelled(self, size: int, digest: str, labels: Labels) -> BlobInfo:
        """See :class:`orlopd.plugin.remote.LabelledIngest`."""
        offset = self.status.offset
        request = api.WriteContentRequest(
            action=api.COMMIT, offset=offset, total=size, expected=digest, labels=labels
        )
        try:
            said = await self._ask(request)
        except FailedPrecondition:
            await self.begin()  # an error ends the stream, but not the ingest
            raise
        at = self.status
        return BlobInfo(said.digest, offset, at.updated_at, at.updated_at)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()


def _blob(info: api.Info) -> BlobInfo:
    return BlobInfo(info.digest, info.size, from_timestamp(info.created_at), from_timestamp(info.updated_at))


def _status(status: api.Status) -> IngestStatus:
    return IngestStatus(
        status.ref,
        status.offset,
        status.total,
        status.expected,
        from_timestamp(status.started_at),
        from_timestamp(status.updated_at),
    )
