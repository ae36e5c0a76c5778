"""Streams of ttrpc: both sides speak at their own pace, and who does not listen holds up nobody else."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from orlop_plugins.ttrpc import Handler, StreamEnd, StreamHandler, TtrpcClient, TtrpcServer, TtrpcStream
from orlop_plugins.ttrpc.frames import Flag, Frame, FrameReader, FrameType
from orlop_protos.ttrpc import request_pb2
from orlopd.plugin.errors import DataLoss, NotFound, OrlopError, Unavailable, Unimplemented

pytestmark = pytest.mark.anyio

PIECE = 64 << 10
MOST_WAITING = 1 << 20
"""With as much that nobody took a connection is not read."""
MOST = 8 << 20
"""More bytes than all the buffers between two sides hold together."""


class Peer:
    """What the serving side does, and what became of it."""

    def __init__(self) -> None:
        self.said = 0
        self.heard = list[bytes]()
        self.listens = anyio.Event()
        self.over = anyio.Event()

    async def echo(self, stream: StreamEnd) -> None:
        while (message := await stream.read(StringValue)) is not None:
            if message.value == "missing":
                raise NotFound("there is none", hint="look elsewhere")
            await stream.write(message)

    async def talk(self, stream: StreamEnd) -> None:
        while self.said < MOST:
            await stream.write(BytesValue(value=bytes(PIECE)))
            self.said += PIECE

    async def listen(self, stream: StreamEnd) -> None:
        try:
            await self.listens.wait()
            while (message := await stream.read(BytesValue)) is not None:
                self.heard.append(message.value)
        finally:
            self.over.set()

    async def leave(self, stream: StreamEnd) -> None:
        """Go once much waits that nobody reads."""
        await stream.read(BytesValue)
        await anyio.sleep(0.2)

    async def single(self, request: StringValue) -> StringValue:
        return request


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def path(tmp_path: Path, peer: Peer) -> AsyncIterator[str]:
    methods: dict[tuple[str, str], Handler | StreamHandler] = {
        ("svc", "Single"): Handler(StringValue, peer.single),
        **{
            ("svc", each.__name__): StreamHandler(each)
            for each in (peer.echo, peer.talk, peer.listen, peer.leave)
        },
    }
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    async with TtrpcServer(listener, methods, grace=5):
        yield str(tmp_path / "s")


async def settled(figure: Callable[[], int]) -> int:
    """A figure once it does not grow any more."""
    last = 0
    while last != (last := figure()) or not last:  # noqa: ASYNC110
        await anyio.sleep(0.1)
    return last


async def test_each_side_hears_what_the_other_said(path: str) -> None:
    stream = await TtrpcStream.open(path, "svc", "echo", 5)
    words = [f"word {number}" for number in range(100)]
    for word in words:
        await stream.write(StringValue(value=word))
    heard = [await stream.read(StringValue) for _ in words]
    assert [message.value for message in heard if message is not None] == words
    stream.abort()


async def test_the_end_comes_after_all_that_was_said(path: str) -> None:
    stream = await TtrpcStream.open(path, "svc", "talk", 5)
    heard = 0
    while (message := await stream.read(BytesValue)) is not None:
        heard += len(message.value)
    assert heard == MOST
    stream.abort()


async def test_an_error_comes_after_all_that_was_said_and_is_what_it_was(path: str) -> None:
    stream = await TtrpcStream.open(path, "svc", "echo", 5)
    await stream.write(StringValue(value="hello"))
    await stream.write(StringValue(value="missing"))
    assert await stream.read(StringValue) == StringValue(value="hello")
    with pytest.raises(NotFound, match="there is none") as caught:
        await stream.read(StringValue)
    assert caught.value.hint == "look elsewhere"
    stream.abort()


async def test_who_does_not_read_is_not_written_to_without_end(path: str, peer: Peer) -> None:
    stream = await TtrpcStream.open(path, "svc", "talk", 5)
    assert 0 < await settled(lambda: peer.said) < MOST
    heard = 0
    while (message := await stream.read(BytesValue)) is not None:
        heard += len(message.value)
    assert heard == peer.said == MOST
    stream.abort()


async def test_who_is_not_heard_waits_and_others_are_answered(path: str, peer: Peer) -> None:
    stream = await TtrpcStream.open(path, "svc", "listen", 5)
    sent = 0

    async def send() -> None:
        nonlocal sent
        for number in range(MOST // PIECE):
            await stream.write(BytesValue(value=number.to_bytes(4, "big") + bytes(PIECE - 4)))
            sent += PIECE

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        assert 0 < await settled(lambda: sent) < MOST
        other = await TtrpcClient.connect(path)
        word = StringValue(value="hello")
        assert await other.call("svc", "Single", word, StringValue, deadline=5) == word
        await other.close()
        peer.listens.set()
    await settled(lambda: len(peer.heard))
    assert [int.from_bytes(each[:4], "big") for each in peer.heard] == list(range(MOST // PIECE))
    stream.abort()


async def test_a_caller_that_goes_ends_its_call(path: str, peer: Peer) -> None:
    stream = await TtrpcStream.open(path, "svc", "listen", 5)
    await stream.write(BytesValue(value=b"hello"))
    peer.listens.set()
    await settled(lambda: len(peer.heard))
    stream.abort()
    with anyio.fail_after(30):
        await peer.over.wait()
    with pytest.raises(Unavailable):
        await stream.read(BytesValue)
    with pytest.raises(Unavailable):
        await stream.write(BytesValue())


async def test_a_server_that_ends_sends_what_was_said_before(tmp_path: Path) -> None:
    begun = anyio.Event()

    async def last_words(stream: StreamEnd) -> None:
        begun.set()
        await anyio.sleep(0.2)
        for _ in range(4):
            await stream.write(BytesValue(value=bytes(PIECE)))

    async def never(stream: StreamEnd) -> None:
        await anyio.sleep_forever()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    methods = {("svc", "last"): StreamHandler(last_words), ("svc", "never"): StreamHandler(never)}
    async with TtrpcServer(listener, methods, grace=1):
        stream = await TtrpcStream.open(str(tmp_path / "s"), "svc", "last", 5)
        other = await TtrpcStream.open(str(tmp_path / "s"), "svc", "never", 5)
        await begun.wait()
    heard = 0
    while (message := await stream.read(BytesValue)) is not None:
        heard += len(message.value)
    assert heard == 4 * PIECE
    with pytest.raises(Unavailable):
        await other.read(BytesValue)
    await other.closed()


@pytest.mark.parametrize("method", ["Other", "Single"])
async def test_a_method_that_is_no_stream(path: str, method: str) -> None:
    stream = await TtrpcStream.open(path, "svc", method, 5)
    with pytest.raises(Unimplemented, match=f"/svc/{method}"):
        await stream.read(StringValue)
    stream.abort()


async def test_a_stream_that_is_called_as_a_single_call(path: str) -> None:
    client = await TtrpcClient.connect(path)
    with pytest.raises(Unimplemented, match="/svc/echo"):
        await client.call("svc", "echo", StringValue(), StringValue, deadline=5)
    await client.close()


async def test_a_caller_that_says_it_has_no_more_to_say_hears_the_rest(path: str) -> None:
    request = request_pb2.Request(service="svc", method="echo").SerializeToString()
    word = StringValue(value="hello").SerializeToString()
    frames = [
        Frame(1, FrameType.REQUEST, Flag.REMOTE_OPEN, request),
        Frame(1, FrameType.DATA, Flag(0), word),
        Frame(1, FrameType.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA, b""),
    ]
    reader, heard = FrameReader(), list[Frame]()
    async with await anyio.connect_unix(path) as connection:
        await connection.send(b"".join(frame.pack() for frame in frames))
        with anyio.fail_after(30):
            while len(heard) < 2:
                heard += reader.feed(await connection.receive())
    assert [frame.type for frame in heard] == [FrameType.DATA, FrameType.RESPONSE]
    assert heard[0].payload == word
    assert not request_pb2.Response.FromString(heard[1].payload).status.code


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", DataLoss),
        (Frame(1, FrameType.DATA, 0, b"\xff\xff").pack(), DataLoss),
        (Frame(1, FrameType.RESPONSE, 0, b"\xff\xff").pack(), DataLoss),
        (b"", Unavailable),
    ],
)
async def test_a_peer_that_speaks_something_else(
    tmp_path: Path, answer: bytes, error: type[OrlopError]
) -> None:
    async def babble(connection: anyio.abc.SocketStream) -> None:
        async with connection:
            await connection.receive()
            if answer:
                await connection.send(answer)

    async with (
        await anyio.create_unix_listener(tmp_path / "s") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, babble)
        stream = await TtrpcStream.open(str(tmp_path / "s"), "svc", "echo", 5)
        with pytest.raises(error):
            await stream.read(StringValue)
        stream.abort()
        group.cancel_scope.cancel()


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nobody answers"):
        await TtrpcStream.open(str(tmp_path / "none"), "svc", "echo", 5)


async def test_a_caller_that_goes_amid_what_nobody_reads_ends_its_call(path: str, peer: Peer) -> None:
    """Its connection is not read just then."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        peer.over = anyio.Event()
        stream = await TtrpcStream.open(path, "svc", "listen", 5)
        with anyio.move_on_after(0.3):
            for _ in range(MOST // PIECE):
                await stream.write(BytesValue(value=bytes(PIECE)))
        stream.abort()
        with anyio.fail_after(5):
            await peer.over.wait()
    peer.listens.set()
    with anyio.fail_after(5):
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110, PTH208
            await anyio.sleep(0.01)


async def test_a_call_that_ends_over_what_it_did_not_read_lets_the_connection_go(path: str) -> None:
    stream = await TtrpcStream.open(path, "svc", "leave", 5)

    async def flood() -> None:
        for _ in range(MOST // PIECE):
            await stream.write(BytesValue(value=bytes(PIECE)))

    with pytest.raises(Unavailable):
        await flood()
    assert await stream.read(BytesValue) is None
    stream.abort()


async def test_who_has_no_more_to_say_is_written_to_no_faster_than_it_reads(path: str, peer: Peer) -> None:
    request = request_pb2.Request(service="svc", method="talk").SerializeToString()
    frames = [
        Frame(1, FrameType.REQUEST, Flag.REMOTE_OPEN, request),
        Frame(1, FrameType.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA, b""),
    ]
    async with await anyio.connect_unix(path) as connection:
        await connection.send(b"".join(frame.pack() for frame in frames))
        assert 0 < await settled(lambda: peer.said) < MOST


async def test_what_an_ending_server_has_yet_is_taken_at_once_and_read_later(tmp_path: Path) -> None:
    async def last_words(stream: StreamEnd) -> None:
        for _ in range(2 * MOST_WAITING // PIECE):
            await stream.write(BytesValue(value=bytes(PIECE)))

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    async with TtrpcServer(listener, {("svc", "last"): StreamHandler(last_words)}, grace=5):
        stream = await TtrpcStream.open(str(tmp_path / "s"), "svc", "last", 5)
        await anyio.sleep(0.2)  # it is not read any more now
        stream.take_all()
    await stream.closed()
    heard = 0
    while (message := await stream.read(BytesValue)) is not None:
        heard += len(message.value)
    assert heard == 2 * MOST_WAITING


async def test_messages_without_bytes_are_not_gathered_without_end(path: str, peer: Peer) -> None:
    stream = await TtrpcStream.open(path, "svc", "listen", 5)
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(200_000):
            await stream.write(BytesValue())
            sent += 1
            if sent % 1000 == 0:
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        assert 0 < await settled(lambda: sent) < 200_000
        group.cancel_scope.cancel()
    stream.abort()
