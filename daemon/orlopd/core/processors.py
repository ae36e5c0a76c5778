"""Stream processors on the way from a layer to a differ: which are needed, and what comes out of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from orlopd.plugin.content import BlobReader
from orlopd.plugin.diff import Differ
from orlopd.plugin.errors import Internal, OrlopError
from orlopd.plugin.processor import Processor
from orlopd.plugin.remote import RemoteDiffer
from orlopd.plugin.values import Descriptor, TypedBytes

Payloads = Mapping[str, TypedBytes]
"""What a request has for processors, by their ids."""

_LONGEST = 8


@dataclass(frozen=True, slots=True)
class Step:
    """A processor, and the media type of what it gives."""

    id: str
    processor: Processor
    media_type: str


def path_to_differ(
    media_type: str, processors: Mapping[str, Processor], differs: Sequence[Differ]
) -> tuple[Sequence[Step], Differ] | None:
    """The processors to go through, and the differ that takes what comes out; None where there are none.

    A differ in another process is none of them: it reads content by itself.
    """
    steps: list[Step] = []
    while len(steps) < _LONGEST:
        step = next(
            (Step(key, each, to) for key, each in processors.items() if (to := each.returns(media_type))),
            None,
        )
        if step is None:
            return None
        steps.append(step)
        media_type = step.media_type
        for differ in differs:
            if differ.handles(media_type) and not isinstance(differ, RemoteDiffer):
                return steps, differ
    return None


@asynccontextmanager
async def processed(
    layer: Descriptor, blob: BlobReader, steps: Sequence[Step], payloads: Payloads
) -> AsyncGenerator[tuple[Descriptor, BlobReader]]:
    """What comes out of processors, to be read in order; its descriptor has neither digest nor size."""
    async with AsyncExitStack() as stack:
        for step in steps:
            stream = step.processor.process(layer, blob, payloads.get(step.id))
            blob = await stack.enter_async_context(_Output(step.id, stream))
            layer = Descriptor(step.media_type, "", 0, annotations=layer.annotations)
        yield layer, blob


class _Output:
    """What a processor gives, as a :class:`orlopd.plugin.content.BlobReader` that goes forward only."""

    def __init__(self, processor: str, stream: AsyncIterator[bytes]) -> None:
        self._processor = processor
        self._stream = stream
        self._at = 0
        self._left = b""

    @property
    def size(self) -> int:
        """Not known."""
        return 0

    @property
    def path(self) -> str | None:
        """None: it is in no file."""
        return None

    async def read_at(self, offset: int, size: int) -> bytes:
        """The next bytes. :raises OrlopError: what the processor found"""
        if offset != self._at:
            raise Internal(
                f"what processor {self._processor} gives is read in order: byte {offset} at {self._at}"
            )
        if not self._left:
            self._left = await self._next()
        data, self._left = self._left[:size], self._left[size:]
        self._at += len(data)
        return data

    async def _next(self) -> bytes:
        try:
            async for data in self._stream:
                if data:
                    return bytes(data)
        except OrlopError:
            raise
        except Exception as error:
            raise Internal(f"processor {self._processor} failed: {error!r}") from error
        return b""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close: Any = getattr(self._stream, "aclose", None)  # as generators have it
        if close is not None:
            await close()
