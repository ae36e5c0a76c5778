"""A server of the daemon's with services of raw bytes, and calls to it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import grpc
import grpc.aio

from orlopd.config import Config
from orlopd.server import Server

Handler = Callable[..., Any]
METHODS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def echo(value: bytes) -> bytes:
    return value


def service(name: str, **methods: tuple[str, Handler]) -> Callable[[Any], list[str]]:
    """A service of raw bytes: each method with its arity and what it does."""

    def register(server: Any) -> list[str]:
        handlers = {
            method: getattr(grpc, f"{arity}_rpc_method_handler")(function, echo, echo)
            for method, (arity, function) in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        return [name]

    return register


@asynccontextmanager
async def serving(*services: Callable[[Any], list[str]]) -> AsyncIterator[tuple[Any, Server]]:
    """A server and a channel to it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        config = Config(addresses=[f"{folder}/s"], root=Path(folder), state=Path(folder))
        server = Server(config, "1.0")
        await server.start(services)
        try:
            async with grpc.aio.insecure_channel(f"unix:{folder}/s") as channel:
                yield channel, server
        finally:
            await server.stop(0)


async def ask(channel: Any, method: str, arity: str = "unary_unary", **options: Any) -> bytes:
    """Call a method, whatever its arity; the last response."""
    call = getattr(channel, arity)(method)
    given = iter([b"x"]) if arity.startswith("stream") else b"x"
    with anyio.fail_after(30):
        if arity.endswith("_unary"):
            return await call(given, **options)
        answers = [answer async for answer in call(given, **options)]
        return answers[-1]


def raising(error: BaseException) -> dict[str, tuple[str, Handler]]:
    """A method of each arity that raises."""

    async def unary(request: Any, context: Any) -> bytes:
        raise error

    async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise error

    return {a: (a, unary if a.endswith("_unary") else stream) for a in METHODS}
