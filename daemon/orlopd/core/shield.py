"""Work that must not be cut in half."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio


@contextmanager
def shielded() -> Generator[None]:
    """Put off cancellation until the end of the block. For short blocks that change two things at once."""
    with anyio.CancelScope(shield=True):
        yield
