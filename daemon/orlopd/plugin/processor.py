"""The contract of a stream processor: it makes layers of one media type into another's, for a differ."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from .content import BlobReader
from .provider import Kind
from .values import Descriptor, TypedBytes


class Processor(Protocol):
    """Reads layers that no differ knows: compressed or encrypted in some other way."""

    def returns(self, media_type: str) -> str:
        """The media type of what comes out for ``media_type``; "" where it is none of this processor's."""
        ...

    def process(
        self, layer: Descriptor, blob: BlobReader, payload: TypedBytes | None
    ) -> AsyncIterator[bytes]:
        """The layer's bytes as the media type that :meth:`returns` says, in pieces of any size.

        What comes out is hostile all the same: the differ's limits and checks are yet to come. ``blob`` was
        verified when it was stored, or is what another processor gives: then it has no path and is read in
        order.

        :param payload: what the request has for this processor, by its id; a key, for example
        :raises InvalidArgument: it cannot be processed
        :raises DataLoss: it is corrupt
        """
        ...


PROCESSOR = Kind[Processor]("dev.orlop.processor.v1", "processor")
