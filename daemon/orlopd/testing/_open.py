"""Making and closing parts, whichever way they are made."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, cast

import anyio
import anyio.to_thread

T = TypeVar("T")
Factory = Callable[[Path], T | Awaitable[T]]
"""Makes a part that keeps its things in the folder it is given, which exists and is empty at first."""


async def open_part(factory: Factory[T], root: Path) -> T:
    """Make a part as the host does."""
    if inspect.iscoroutinefunction(factory):
        return cast("T", await factory(root))
    made = await anyio.to_thread.run_sync(factory, root)
    return cast("T", await made if inspect.isawaitable(made) else made)


async def close_part(part: object) -> None:
    """Close a part as the host does."""
    close = getattr(part, "aclose", None)
    if close is not None:
        await close()


@asynccontextmanager
async def opened(factory: Factory[T], root: Path) -> AsyncGenerator[T]:
    """A part for the time of a block."""
    part = await open_part(factory, root)
    try:
        yield part
    finally:
        with anyio.CancelScope(shield=True):
            await close_part(part)
