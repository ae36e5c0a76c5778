"""Lists that the API wants in one message, without holding all of their objects at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.message import Message

from orlopd.plugin.errors import ResourceExhausted

LIMIT = 16 << 20
"""The largest message that containerd's own clients take, in bytes."""


async def join(pages: AsyncIterator[Message]) -> bytes:
    """One message with all that ``pages`` list, serialized; the server takes it as it is.

    The bytes of messages one after the other are those of one message with the lists of all.

    :raises ResourceExhausted: it has more than :data:`LIMIT` bytes
    """
    parts: list[bytes] = []
    size = 0
    async for page in pages:
        parts.append(page.SerializeToString())
        size += len(parts[-1])
        if size > LIMIT:
            raise ResourceExhausted(
                f"the list takes more than {LIMIT} bytes, which is the most that one message may have",
                reason="LIST_TOO_LONG",
                hint="ask for fewer with filters",
            )
    return b"".join(parts)
