"""Mutual exclusion by key."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio


@dataclass(slots=True)
class _Entry:
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    users: int = 0


class KeyedLocks:
    """One lock for each key, made when first wanted and forgotten when nobody wants it any more."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    @asynccontextmanager
    async def hold(self, *keys: str) -> AsyncGenerator[None]:
        """Hold the locks of all ``keys``; taken in their order, so that no two holders wait in a ring."""
        held: list[tuple[str, _Entry]] = []
        try:
            for key in sorted(set(keys)):
                entry = await self._take(key)
                held.append((key, entry))
            yield
        finally:
            for key, entry in held:
                entry.lock.release()
                self._leave(key, entry)

    async def _take(self, key: str) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
        entry.users += 1
        try:
            # Many are taken at once, most of which nobody else wants: no turn of the event loop for each.
            entry.lock.acquire_nowait()
        except anyio.WouldBlock:
            try:
                await entry.lock.acquire()
            except BaseException:
                self._leave(key, entry)
                raise
        return entry

    def _leave(self, key: str, entry: _Entry) -> None:
        entry.users -= 1
        if not entry.users:
            del self._entries[key]
