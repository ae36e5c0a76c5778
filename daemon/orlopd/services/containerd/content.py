"""containerd.services.content.v1."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

from google.protobuf import empty_pb2

from orlop_protos.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from orlopd.core.content import Content, ContentInfo, NamespacedIngest
from orlopd.core.core import Core
from orlopd.core.scope import Scope
from orlopd.plugin.errors import AlreadyExists, InvalidArgument, OrlopError, OutOfRange
from orlopd.plugin.values import IngestStatus
from orlopd.services.convert import paths_of, to_timestamp
from orlopd.services.scope import ScopeOf, scope_of

log = logging.getLogger("orlopd.content")

CHUNK = 1 << 20
"""How many bytes of a blob a message carries."""

BLOCK = 100
"""How many blobs of a list a message carries."""


class ContentService(content_pb2_grpc.ContentServicer):
    """Reads, writes and labels blobs."""

    def __init__(self, core: Core) -> None:
        self._content = core.content
        self._scope = scope_of

    @classmethod
    def over(cls, part: Content, scope: ScopeOf) -> Self:
        """The same over one part. :param scope: says whom a call is for"""
        service = cls.__new__(cls)
        service._content, service._scope = part, scope
        return service

    def register(self, server: Any) -> Sequence[str]:
        content_pb2_grpc.add_ContentServicer_to_server(self, server)
        return [content_pb2.DESCRIPTOR.services_by_name["Content"].full_name]

    async def Info(self, request: Any, context: Any) -> content_pb2.InfoResponse:
        info = await self._content.info(self._scope(context), request.digest)
        return content_pb2.InfoResponse(info=_info(info))

    async def Update(self, request: Any, context: Any) -> content_pb2.UpdateResponse:
        wanted = ContentInfo(request.info.digest, labels=dict(request.info.labels))
        info = await self._content.update(self._scope(context), wanted, paths_of(request))
        return content_pb2.UpdateResponse(info=_info(info))

    async def List(self, request: Any, context: Any) -> AsyncIterator[content_pb2.ListContentResponse]:
        block: list[content_pb2.Info] = []
        async for info in self._content.walk(self._scope(context), list(request.filters)):
            block.append(_info(info))
            if len(block) == BLOCK:
                yield content_pb2.ListContentResponse(info=block)
                block = []
        if block:
            yield content_pb2.ListContentResponse(info=block)

    async def Delete(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._content.delete(self._scope(context), request.digest)
        return empty_pb2.Empty()

    async def Read(self, request: Any, context: Any) -> AsyncIterator[content_pb2.ReadContentResponse]:
        async with await self._content.open(self._scope(context), request.digest) as reader:
            start = max(request.offset, 0)
            if start > reader.size:
                raise OutOfRange(f"read past object length {reader.size} bytes")
            end = min(start + request.size, reader.size) if request.size > 0 else reader.size
            at = start
            while at < end and (data := await reader.read_at(at, min(CHUNK, end - at))):
                # Counted from where the caller began, as containerd does.
                yield content_pb2.ReadContentResponse(offset=at - start, data=data)
                at += len(data)

    async def Status(self, request: Any, context: Any) -> content_pb2.StatusResponse:
        status = await self._content.status(self._scope(context), request.ref)
        return content_pb2.StatusResponse(status=_status(status))

    async def ListStatuses(self, request: Any, context: Any) -> content_pb2.ListStatusesResponse:
        statuses = await self._content.statuses(self._scope(context), list(request.filters))
        return content_pb2.ListStatusesResponse(statuses=[_status(each) for each in statuses])

    async def Abort(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._content.abort(self._scope(context), request.ref)
        return empty_pb2.Empty()

    async def Write(
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[content_pb2.WriteContentResponse]:
        scope = self._scope(context)
        requests = aiter(request_iterator)
        first = await anext(requests, None)
        if first is None:
            return
        if not first.ref:
            raise InvalidArgument("first message must have a reference: invalid argument")
        opened = await self._content.ingest(scope, first.ref, total=first.total, expected=first.expected)
        async with opened as ingest:
            session = _WriteSession(self._content, scope, first.ref, ingest)
            response = await session.answer(first)
            while True:
                yield response
                if response.action == content_pb2.COMMIT:
                    return
                request = await anext(requests, None)
                if request is None:
                    return
                response = await session.answer(request)


class _WriteSession:
    """One stream of writes to one ingest."""

    def __init__(self, content: Any, scope: Scope, ref: str, ingest: NamespacedIngest) -> None:
        self._content = content
        self._scope = scope
        self._ref = ref
        self._ingest = ingest
        self._total = 0
        self._expected = ""

    async def answer(self, request: Any) -> content_pb2.WriteContentResponse:
        """Do what one message asks."""
        ingest, status = self._ingest, self._ingest.status
        if request.expected:
            self._expected = request.expected
            await self._check_absent(request.expected)
        if request.total > 0:
            self._total = request.total
        response = content_pb2.WriteContentResponse(action=request.action, offset=status.offset)
        if request.action == content_pb2.STAT:
            response.total = self._total
            response.started_at.CopyFrom(to_timestamp(status.started_at))
            response.updated_at.CopyFrom(to_timestamp(status.updated_at))
            response.digest = await ingest.digest()
            return response

        if request.offset > 0 and request.offset != status.offset:
            raise OutOfRange(f"write @{request.offset} must occur at current offset {status.offset}")
        if request.offset <= 0 and status.offset > 0:
            await ingest.truncate(0)
            response.offset = 0
        if data := request.data:  # each look at it is a copy
            await ingest.write(data)
            response.offset += len(data)
        if request.action == content_pb2.COMMIT:
            blob = await ingest.commit(self._total, self._expected, dict(request.labels))
            response.digest = blob.digest
        else:
            response.digest = await ingest.digest()
        return response

    async def _check_absent(self, digest: str) -> None:
        if not await self._content.find(self._scope, digest):
            return
        await self._ingest.__aexit__(None, None, None)
        try:
            await self._content.abort(self._scope, self._ref)
        except OrlopError as error:
            log.warning("cannot abort ingest %s of a blob that is there: %s", self._ref, error)
        raise AlreadyExists(
            f"blob with expected digest {digest} exists: already exists", resource=f"content {digest}"
        )


def _info(info: ContentInfo) -> content_pb2.Info:
    return content_pb2.Info(
        digest=info.digest,
        size=info.size,
        created_at=to_timestamp(info.created_at),
        updated_at=to_timestamp(info.updated_at),
        labels=dict(info.labels),
    )


def _status(status: IngestStatus) -> content_pb2.Status:
    return content_pb2.Status(
        started_at=to_timestamp(status.started_at),
        updated_at=to_timestamp(status.updated_at),
        ref=status.ref,
        offset=status.offset,
        total=status.total,
        expected=status.expected,
    )
