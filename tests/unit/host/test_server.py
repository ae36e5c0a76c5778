"""What happens around every call: errors to statuses, the end when the daemon stops."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import grpc
import grpc.aio
import pytest
from anyio.lowlevel import checkpoint
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from orlop_protos.containerd.services.version.v1 import version_pb2_grpc
from orlopd.plugin import errors
from orlopd.server import Server
from tests.support.serving import METHODS, ask, raising, service, serving


@pytest.mark.parametrize("arity", METHODS)
async def test_errors_of_the_house_become_statuses_with_details(arity: str) -> None:
    error = errors.NotFound(
        'image "x":\nnot found', reason="NO_IMAGE", resource="image docker.io/library/x", hint="Pull it."
    )
    async with serving(service("test.S", **raising(error))) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, f"/test.S/{arity}", arity)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == 'image "x": not found'
    status = rpc_status.from_call(cast("Any", caught.value))
    assert status is not None
    info, resource, hint = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.ResourceInfo(),
        error_details_pb2.LocalizedMessage(),
    )
    for detail, packed in zip((info, resource, hint), status.details, strict=True):
        assert packed.Unpack(detail)
    assert (info.reason, info.domain) == ("NO_IMAGE", "orlop.dev")
    assert (resource.resource_type, resource.resource_name) == ("image", "docker.io/library/x")
    assert hint.message == "Pull it."


def all_errors() -> list[type[errors.OrlopError]]:
    return errors.OrlopError.__subclasses__()


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
async def test_every_error_has_its_code(kind: type[errors.OrlopError]) -> None:
    async with serving(service("test.S", **raising(kind("what")))) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, "/test.S/unary_unary")
    assert caught.value.code().name == kind.code


@pytest.mark.parametrize("arity", METHODS)
async def test_anything_else_is_internal_and_only_the_log_knows_more(
    arity: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = RuntimeError("secret detail")
    async with serving(service("test.S", **raising(error))) as (channel, _):
        with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, f"/test.S/{arity}", arity)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    details = caught.value.details() or ""
    assert details.startswith("internal error (id ")
    assert "secret" not in details
    mark = details.removeprefix("internal error (id ").partition(",")[0]
    assert mark in caplog.text
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ExceptionGroup("g", [ExceptionGroup("h", [errors.Aborted("a")])]), grpc.StatusCode.ABORTED),
        (ExceptionGroup("g", [errors.Aborted("a"), ValueError()]), grpc.StatusCode.INTERNAL),
        (OSError(errno.ENOSPC, "No space left on device"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (OSError(errno.EIO, "I/O error"), grpc.StatusCode.INTERNAL),
        (errors.NotFound("long " * 5000), grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_errors_are_known_in_groups_and_in_other_clothes(
    error: Exception, code: grpc.StatusCode
) -> None:
    async with serving(service("test.S", **raising(error))) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, "/test.S/unary_unary")
    assert caught.value.code() == code


async def test_a_handlers_own_abort_passes() -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.DATA_LOSS, "mine")
        return b""

    async with serving(service("test.S", M=("unary_unary", unary))) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, "/test.S/M")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "mine")


async def test_methods_that_a_service_leaves_out_are_unimplemented(caplog: pytest.LogCaptureFixture) -> None:
    def register(server: Any) -> list[str]:
        version_pb2_grpc.add_VersionServicer_to_server(
            cast("Any", version_pb2_grpc.VersionServicer)(), server
        )
        return []

    method = "/containerd.services.version.v1.Version/Version"
    async with serving(register) as (channel, _):
        call = channel.unary_unary(method)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "Traceback" not in caplog.text


async def test_a_client_that_goes_away_cancels_the_handler() -> None:
    begun, cancelled = anyio.Event(), anyio.Event()

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"1"
            begun.set()
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(service("test.S", M=("unary_stream", stream))) as (channel, _):
        call = channel.unary_stream("/test.S/M")(b"")
        await call.read()
        await begun.wait()
        call.cancel()
        with anyio.fail_after(30):
            await cancelled.wait()


@pytest.mark.parametrize("arity", ["unary_unary", "unary_stream"])
async def test_what_is_shielded_is_not_cut_off_by_a_client_that_goes_away(arity: str) -> None:
    begun, ended = anyio.Event(), anyio.Event()

    async def handler(request: Any, context: Any) -> bytes:
        with anyio.CancelScope(shield=True):
            begun.set()
            await anyio.sleep(0.2)
            ended.set()
        await anyio.sleep_forever()
        return b""

    async with serving(service("test.S", M=(arity, handler))) as (channel, _):
        call = getattr(channel, arity)("/test.S/M")(b"")
        await begun.wait()
        call.cancel()
        with anyio.fail_after(30):
            await ended.wait()


@pytest.mark.parametrize("arity", ["unary_unary", "unary_stream"])
async def test_a_cancellation_that_nobody_asked_for_is_a_fault(arity: str) -> None:
    async with serving(service("test.S", **raising(asyncio.CancelledError()))) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, f"/test.S/{arity}", arity)
    assert caught.value.code() == grpc.StatusCode.INTERNAL


async def test_the_clients_deadline_ends_the_handler() -> None:
    cancelled = anyio.Event()

    async def unary(request: bytes, context: Any) -> bytes:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        return b""

    async with serving(service("test.S", M=("unary_unary", unary))) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, "/test.S/M", timeout=1)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        with anyio.fail_after(30):
            await cancelled.wait()


@pytest.mark.parametrize("messages", [1, 64])
async def test_a_call_whose_writer_is_cancelled_amid_a_message_ends_with_its_error(messages: int) -> None:
    """The first message takes the headers along; later ones wait for a client that does not read."""

    async def handler(request: Any, context: Any) -> None:
        async with anyio.create_task_group() as group:

            async def write() -> None:
                for _ in range(messages):
                    await context.write(bytes(1 << 20))

            group.start_soon(write)
            await anyio.sleep(0 if messages == 1 else 0.2)
            group.cancel_scope.cancel()
        raise errors.NotFound("what")

    async with serving(service("test.S", stream=("unary_stream", handler))) as (channel, _):
        call = channel.unary_stream("/test.S/stream")(b"")
        await anyio.sleep(0.3)
        with anyio.fail_after(30), pytest.raises(grpc.aio.AioRpcError) as caught:
            [len(message) async for message in call]
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "what")


async def test_a_call_that_is_ended_by_the_daemon_amid_its_first_message_says_so() -> None:
    stopping: list[Server] = []

    async def handler(request: Any, context: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(context.write, bytes(1 << 20))
            await checkpoint()
            stopping[0]._interceptor.stop()
            await anyio.sleep_forever()

    async with serving(service("test.S", stream=("unary_stream", handler))) as (channel, server):
        stopping.append(server)
        call = channel.unary_stream("/test.S/stream")(b"")
        with anyio.fail_after(30), pytest.raises(grpc.aio.AioRpcError) as caught:
            [len(message) async for message in call]
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_stopping_ends_streams_and_waits_and_lets_the_rest_finish() -> None:
    waiting = anyio.create_memory_object_stream[None](3)

    async def slow(request: bytes, context: Any) -> bytes:
        waiting[0].send_nowait(None)
        await anyio.sleep(0.5)
        return b"done"

    async def wait(request: bytes, context: Any) -> bytes:
        waiting[0].send_nowait(None)
        await anyio.sleep_forever()
        return b""

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        waiting[0].send_nowait(None)
        yield b"1"
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)

    codes: dict[str, Any] = {}
    methods = service(
        "test.S", Slow=("unary_unary", slow), Wait=("unary_unary", wait), Watch=("unary_stream", stream)
    )
    async with serving(methods) as (channel, server):

        async def collect(method: str, arity: str) -> None:
            try:
                codes[method] = await ask(channel, f"/test.S/{method}", arity)
            except grpc.aio.AioRpcError as error:
                codes[method] = error.code()

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(collect, "Slow", "unary_unary")
                group.start_soon(collect, "Wait", "unary_unary")
                group.start_soon(collect, "Watch", "unary_stream")
                for _ in range(3):
                    await waiting[1].receive()
                await server.stop(5)
    assert codes == {
        "Slow": b"done",
        "Wait": grpc.StatusCode.UNAVAILABLE,
        "Watch": grpc.StatusCode.UNAVAILABLE,
    }
    for end in waiting:
        end.close()


async def test_messages_up_to_16_mib_pass_and_larger_ones_are_refused() -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        return b"ok"

    async with serving(service("test.S", M=("unary_unary", unary))) as (channel, _):
        call = channel.unary_unary("/test.S/M")
        assert await call(bytes(16 * 1024 * 1024 - 16)) == b"ok"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(bytes(16 * 1024 * 1024 + 1))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
