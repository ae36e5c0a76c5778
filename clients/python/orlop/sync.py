"""The SDK without async: the same clients, sessions and values, each call waiting for its end.

    with orlop.sync.connect() as client:
        for step in client.images.pull("alpine"):
            print(step)
        with client.containers.run(ContainerSpec(image="alpine", args=["date"])) as session:
            for output in session:
                print(output.data)

An event loop runs in a thread of its own as long as the client is open. What the async API has is here by the
same name: coroutines return their result, async iterators become iterators, async context managers context
managers. Objects may be shared between threads as far as the async ones may be shared between tasks.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import wraps
from types import TracebackType
from typing import Any, Self

from anyio import to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from orlop._connection import CALL_SECONDS
from orlop._session import Session
from orlop.client import Client
from orlop.client import connect as connect_async

STREAMS = {"import_": "archive", "build": "root", "copy_in": "tar"}
"""Methods that take a stream of bytes, and which argument it is: any iterable of bytes will do here."""


class Face:
    """An object of the async API, with every call waiting for its end."""

    def __init__(self, portal: BlockingPortal, inner: Any) -> None:
        self._portal = portal
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = getattr(self._inner, name)
        if not callable(value):
            return Face(self._portal, value) if _is_api(value) else value
        if inspect.isasyncgenfunction(value):
            return self._iterator(value)
        return self._caller(value, STREAMS.get(name))

    def __dir__(self) -> Iterable[str]:
        return [name for name in dir(self._inner) if not name.startswith("_")]

    def __repr__(self) -> str:
        return f"<sync {self._inner!r}>"

    def __iter__(self) -> Iterator[Any]:
        return iterate(self._portal, self._inner.__aiter__)

    def __enter__(self) -> Self:
        self._portal.call(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.call(self._inner.__aexit__, kind, error, traceback)

    def _iterator(self, method: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
            return iterate(self._portal, lambda: method(*args, **kwargs))

        return call

    def _caller(self, method: Callable[..., Any], stream: str | None) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if stream is not None:
                bound = inspect.signature(method).bind(*args, **kwargs)
                bound.arguments[stream] = from_thread(bound.arguments[stream])
                args, kwargs = bound.args, bound.kwargs

            async def run() -> Any:
                result = method(*args, **kwargs)
                return await result if inspect.isawaitable(result) else result

            result = self._portal.call(run)
            return Face(self._portal, result) if _is_api(result) else result

        return call


class SyncClient(Face):
    """A client that brings its event loop along; see ``orlop.Client`` for what it has."""

    def __init__(self, address: str | None, namespace: str | None, timeout: float) -> None:
        self._stack = ExitStack()
        portal = self._stack.enter_context(start_blocking_portal())
        try:

            async def open_client() -> Client:
                return connect_async(address, namespace=namespace, timeout=timeout)

            super().__init__(portal, portal.call(open_client))
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """End the connection and its event loop."""
        with self._stack:
            self._portal.call(self._inner.close)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def connect(
    address: str | None = None, *, namespace: str | None = None, timeout: float = CALL_SECONDS
) -> SyncClient:
    """As ``orlop.connect``, but nothing needs to run and nothing needs to be awaited."""
    return SyncClient(address, namespace, timeout)


def iterate(portal: BlockingPortal, make: Callable[[], AsyncIterator[Any]]) -> Iterator[Any]:
    """Yield what an async iterator of the portal's loop yields; leaving early closes it."""

    async def start() -> AsyncIterator[Any]:
        return make()

    iterator = portal.call(start)

    async def step() -> tuple[bool, Any]:
        # Not anext with a default: StopAsyncIteration does not travel through a future.
        try:
            return True, await iterator.__anext__()
        except StopAsyncIteration:
            return False, None

    try:
        while True:
            more, value = portal.call(step)
            if not more:
                return
            yield value
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            portal.call(close)


async def from_thread(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Read an ordinary iterable of bytes in a worker thread, so that a slow one does not hold up the loop."""
    iterator = iter(chunks)
    while (chunk := await to_thread.run_sync(next, iterator, None)) is not None:
        yield chunk


def _is_api(value: Any) -> bool:
    """Whether a value is part of the API, and not a plain value."""
    from orlop._containers import Containers
    from orlop._images import Images
    from orlop._shims import Shims
    from orlop._system import System
    from orlop._volumes import Volumes

    return isinstance(value, (Containers, Images, Shims, System, Volumes, Session))
