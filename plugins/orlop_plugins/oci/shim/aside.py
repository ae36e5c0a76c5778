"""Blocking work beside the event loop, each piece in a thread that ends with it.

A pool of threads would be kept by every shim for what it does twice in its life.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def aside(fn: Callable[..., T], *args: Any) -> T:
    """What ``fn`` gives, or raises, in a thread. It goes on to its end though the caller is cancelled."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(result)
        else:
            ended.set_exception(error)

    def work() -> None:
        result: Any = None
        failed: BaseException | None = None
        try:
            result = fn(*args)
        except BaseException as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the shim ends
            loop.call_soon_threadsafe(tell, result, failed)

    _thread.start_new_thread(work, ())
    return await ended
