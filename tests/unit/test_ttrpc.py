"""ttrpc: frames cut out of any stream of bytes, calls answered, refused, given up."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from hypothesis import given
from hypothesis import strategies as st

from orlop_plugins.ttrpc import Handler, TtrpcClient, TtrpcServer
from orlop_plugins.ttrpc.frames import HEADER, MOST_PAYLOAD, Frame, FrameError, FrameReader
from orlopd.plugin.errors import (
    DataLoss,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)

pytestmark = pytest.mark.anyio

FRAMES = st.lists(
    st.builds(
        Frame, st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=99)
    )
)


@given(FRAMES, st.data())
def test_frames_come_out_as_they_went_in_however_the_bytes_arrive(frames: list[Frame], data: Any) -> None:
    whole = b"".join(frame.pack() for frame in frames)
    reader, seen, at = FrameReader(), list[Frame](), 0
    while at < len(whole):
        size = data.draw(st.integers(1, len(whole) - at))
        seen += reader.feed(whole[at : at + size])
        at += size
    assert seen == frames


@given(st.integers(MOST_PAYLOAD + 1, 2**32 - 1))
def test_a_payload_that_is_too_large_is_not_waited_for(size: int) -> None:
    with pytest.raises(FrameError):
        list(FrameReader().feed(HEADER.pack(size, 1, 1, 0)))


async def echo(request: Any) -> Any:
    match request.value:
        case "missing":
            raise NotFound("there is none")
        case "bug":
            raise ValueError("oops")
        case "long":
            await anyio.sleep_forever()
        case "large":
            return StringValue(value="x" * (MOST_PAYLOAD + 1))
        case _:
            pass
    return StringValue(value=request.value)


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[str]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    async with TtrpcServer(listener, {("svc", "Echo"): Handler(StringValue, echo)}):
        yield str(tmp_path / "s")


@pytest.fixture
async def client(path: str) -> AsyncIterator[TtrpcClient]:
    made = await TtrpcClient.connect(path)
    yield made
    await made.close()


async def say(client: TtrpcClient, text: str, deadline: float | None = 10) -> str:
    reply = await client.call("svc", "Echo", StringValue(value=text), StringValue, deadline=deadline)
    return reply.value


async def test_many_calls_at_once_get_their_own_answers(client: TtrpcClient) -> None:
    heard = dict[str, str]()

    async def one(text: str) -> None:
        heard[text] = await say(client, text)

    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(one, f"word {number}")
    assert heard == {f"word {number}": f"word {number}" for number in range(100)}


@pytest.mark.parametrize(
    ("text", "error"), [("missing", NotFound), ("bug", Internal), ("large", InvalidArgument)]
)
async def test_errors_keep_their_class(client: TtrpcClient, text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await say(client, text)
    assert await say(client, "and on") == "and on"


async def test_a_method_that_is_not_there(client: TtrpcClient) -> None:
    with pytest.raises(Unimplemented, match="/svc/Other"):
        await client.call("svc", "Other", StringValue(), StringValue, deadline=10)


async def test_a_request_that_is_too_large_is_refused_before_it_is_sent(client: TtrpcClient) -> None:
    with pytest.raises(InvalidArgument):
        await say(client, "x" * (MOST_PAYLOAD + 1))
    assert await say(client, "and on") == "and on"


async def test_a_call_that_takes_too_long_is_given_up(client: TtrpcClient) -> None:
    with pytest.raises(DeadlineExceeded):
        await say(client, "long", 0.05)
    assert await say(client, "and on") == "and on"


async def test_calls_under_way_fail_when_the_other_side_goes(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    server = TtrpcServer(listener, {("svc", "Echo"): Handler(StringValue, echo)})
    gone: TtrpcClient | None = None
    async with anyio.create_task_group() as group, server:
        client = gone = await TtrpcClient.connect(str(tmp_path / "s"))

        async def fails() -> None:
            with pytest.raises(Unavailable):
                await say(client, "long", None)

        group.start_soon(fails)
        await anyio.sleep(0.05)
    assert gone is not None
    with pytest.raises(Unavailable):
        await say(gone, "again")
    await gone.closed()


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nobody answers"):
        await TtrpcClient.connect(str(tmp_path / "none"))


async def test_a_peer_that_speaks_something_else_is_cut_off(tmp_path: Path) -> None:
    async def babble(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await anyio.sleep(1)

    async with (
        await anyio.create_unix_listener(tmp_path / "s") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, babble)
        client = await TtrpcClient.connect(str(tmp_path / "s"))
        with pytest.raises(DataLoss, match="does not speak ttrpc"):
            await say(client, "hello")
        group.cancel_scope.cancel()


async def test_a_request_that_is_no_message_is_refused(client: TtrpcClient) -> None:
    with pytest.raises(InvalidArgument):
        await client.call("svc", "Echo", BytesValue(value=b"\xff\xfe"), StringValue, deadline=10)
