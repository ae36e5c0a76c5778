"""Containers of the engine in a few words, for tests of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from orlop import errors
from orlop.values import Container, ContainerSpec


@asynccontextmanager
async def running(client: Any, *args: str, **spec: Any) -> AsyncIterator[Container]:
    """A container that runs for the length of the block."""
    wanted = ContainerSpec(image="probe", args=args or ("sleep", "1000"), **spec)
    async with client.containers.run(wanted, detach=True) as session:
        await session.ready()
    try:
        yield (await client.containers.get(session.id)).container
    finally:
        with anyio.CancelScope(shield=True):
            with suppress(errors.NotFound):
                await client.containers.remove(session.id, force=True)


async def logged(client: Any, container: str, wanted: bytes) -> None:
    """Wait until a container has written a line."""
    with anyio.fail_after(30):
        async with aclosing(client.containers.logs(container, follow=True)) as lines:
            async for line in lines:
                if line.data == wanted:
                    return
    raise AssertionError(f"{container} did not write {wanted!r}")


async def said(session: Any) -> tuple[str, int]:
    """What a session's process wrote and its exit code."""
    async with session:
        text = b"".join([each.data async for each in session]).decode()
        return text, session.exit.code


async def run(client: Any, *args: str, **spec: Any) -> tuple[str, int]:
    """Run a container to its end."""
    return await said(
        client.containers.run(ContainerSpec(image="probe", args=args, auto_remove=True, **spec))
    )


def reason(caught: pytest.ExceptionInfo[errors.OrlopError]) -> str:
    return caught.value.reason
