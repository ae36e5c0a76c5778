"""containerd.services.content.v1: what travels, and with which codes it is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from google.protobuf import field_mask_pb2

from orlop_protos.containerd.services.content.v1 import content_pb2
from tests.support.services import HELLO, Client, Code, add, asks, refused, write
from tests.support.store import digest_of


async def test_a_blob_is_written_read_and_listed(client: Client) -> None:
    digest = digest_of(HELLO)
    stat, first, second, done = await write(
        client,
        {"action": content_pb2.STAT, "ref": "ref", "total": 12, "expected": digest},
        {"action": content_pb2.WRITE, "data": HELLO[:5]},
        {"action": content_pb2.WRITE, "offset": 5, "data": HELLO[5:8]},
        {"action": content_pb2.COMMIT, "offset": 8, "data": HELLO[8:], "total": 12, "labels": {"a": "1"}},
    )
    assert (stat.action, stat.offset, stat.total) == (content_pb2.STAT, 0, 12)
    assert stat.digest == digest_of(b"")
    assert stat.HasField("started_at")
    assert (first.offset, first.digest) == (5, digest_of(HELLO[:5]))
    assert second.offset == 8
    assert (done.action, done.offset, done.digest) == (content_pb2.COMMIT, 12, digest)
    info = (await client.content.Info(content_pb2.InfoRequest(digest=digest))).info
    assert (info.digest, info.size, dict(info.labels)) == (digest, 12, {"a": "1"})
    request = content_pb2.ListContentRequest(filters=["labels.a==1"])
    assert [each.info[0].digest async for each in client.content.List(request)] == [digest]
    mask = field_mask_pb2.FieldMask(paths=["labels.b"])
    wanted = content_pb2.Info(digest=digest, labels={"b": "2"})
    update = content_pb2.UpdateRequest(info=wanted, update_mask=mask)
    assert dict((await client.content.Update(update)).info.labels) == {"a": "1", "b": "2"}
    await client.content.Delete(content_pb2.DeleteContentRequest(digest=digest))
    assert await refused(client.content.Info(content_pb2.InfoRequest(digest=digest))) is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, 0, HELLO),
        (7, 0, b"world"),
        (7, 3, b"wor"),
        (7, 100, b"world"),
        (-5, 5, b"hello"),
        (12, 0, b""),
        (3, -1, HELLO[3:]),
    ],
)
async def test_any_part_of_a_blob_is_read(client: Client, offset: int, size: int, expected: bytes) -> None:
    digest = await add(client, HELLO)
    request = content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size)
    assert b"".join([part.data async for part in client.content.Read(request)]) == expected


async def test_a_large_blob_comes_in_pieces(client: Client) -> None:
    data = bytes(range(256)) * 4096 * 2 + b"rest"
    digest = await add(client, data)
    request = content_pb2.ReadContentRequest(digest=digest)
    parts = [(part.offset, len(part.data)) async for part in client.content.Read(request)]
    assert parts == [(0, 1 << 20), (1 << 20, 1 << 20), (2 << 20, 4)]


async def test_reads_that_cannot_be(client: Client) -> None:
    digest = await add(client, HELLO)
    read = client.content.Read
    past = content_pb2.ReadContentRequest(digest=digest, offset=13)
    assert await refused(read(past)) is Code.OUT_OF_RANGE
    gone = content_pb2.ReadContentRequest(digest=digest_of(b"gone"))
    assert await refused(read(gone)) is Code.NOT_FOUND
    assert await refused(read(content_pb2.ReadContentRequest(digest="sha256:x"))) is Code.INVALID_ARGUMENT


async def test_writes_that_cannot_be(client: Client) -> None:
    async def code(*requests: Any) -> grpc.StatusCode:
        return await refused(client.content.Write(iter(asks(*requests))))

    commit, some = content_pb2.COMMIT, {"ref": "ref", "action": content_pb2.WRITE, "data": HELLO}
    assert await code({"action": content_pb2.STAT}) is Code.INVALID_ARGUMENT
    assert await code(some, {"action": content_pb2.WRITE, "offset": 5, "data": b"x"}) is Code.OUT_OF_RANGE
    assert await code(some, {"action": commit, "offset": 12, "total": 11}) is Code.FAILED_PRECONDITION
    assert (
        await code(some, {"action": commit, "offset": 12, "expected": digest_of(b"other")})
        is Code.FAILED_PRECONDITION
    )
    # What was sent is still there to look at.
    status = (await client.content.Status(content_pb2.StatusRequest(ref="ref"))).status
    assert (status.ref, status.offset) == ("ref", 12)
    digest = await add(client, HELLO)
    assert await code({"ref": "again", "expected": digest}) is Code.ALREADY_EXISTS
    assert await code(some, {"action": commit, "offset": 12, "expected": digest}) is Code.ALREADY_EXISTS
    assert await code({"ref": "new", "data": HELLO, "action": commit}) is Code.ALREADY_EXISTS
    assert not (await client.content.ListStatuses(content_pb2.ListStatusesRequest())).statuses
    bad = {"ref": "x", "data": b"y", "action": commit, "labels": {"k": "v" * 4096}}
    assert await code(bad) is Code.INVALID_ARGUMENT


async def test_writing_at_offset_zero_begins_anew(client: Client) -> None:
    write_, commit = content_pb2.WRITE, content_pb2.COMMIT
    await write(client, {"ref": "ref", "action": write_, "data": b"wrong"})
    first, _ = await write(
        client,
        {"ref": "ref", "action": write_, "data": HELLO[:5]},
        {"action": commit, "offset": 5, "data": HELLO[5:], "expected": digest_of(HELLO)},
    )
    assert first.offset == 5


async def test_a_broken_write_is_resumed_and_a_ref_is_locked(client: Client) -> None:
    requests = asks({"ref": "ref", "total": 12, "action": content_pb2.WRITE, "data": HELLO[:5]})
    closed = anyio.Event()

    async def slowly() -> AsyncIterator[content_pb2.WriteContentRequest]:
        for request in requests:
            yield request
        await closed.wait()

    call = client.content.Write(slowly())
    assert (await call.read()).offset == 5
    other = client.content.Write(iter(asks({"ref": "ref"})))
    assert await refused(other) is Code.UNAVAILABLE
    call.cancel()
    closed.set()

    async def resume() -> list[content_pb2.WriteContentResponse]:
        commit = {"action": content_pb2.COMMIT, "offset": 5, "data": HELLO[5:]}
        while True:
            try:
                return await write(client, {"ref": "ref"}, commit)
            except grpc.aio.AioRpcError as error:
                # The server hears of the cancellation a little later.
                if error.code() is not Code.UNAVAILABLE:
                    raise
                await anyio.sleep(0.02)

    with anyio.fail_after(30):
        stat, done = await resume()
    assert (stat.offset, done.digest) == (5, digest_of(HELLO))


async def test_an_ingest_is_aborted(client: Client) -> None:
    await write(client, {"ref": "ref", "action": content_pb2.WRITE, "data": HELLO})
    statuses = (
        await client.content.ListStatuses(content_pb2.ListStatusesRequest(filters=["ref==ref"]))
    ).statuses
    assert [each.ref for each in statuses] == ["ref"]
    await client.content.Abort(content_pb2.AbortRequest(ref="ref"))
    for call in (
        client.content.Abort(content_pb2.AbortRequest(ref="ref")),
        client.content.Status(content_pb2.StatusRequest(ref="ref")),
    ):
        assert await refused(call) is Code.NOT_FOUND
