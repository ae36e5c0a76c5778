"""Garbage collection: mark what the roots reach, sweep the rest; metadata first, data after.

Marking and sweeping of metadata is one transaction, so nothing changes in between, and readers go on. With
the metadata of a thing, in the same transaction, goes a note that its data is to be deleted; the notes
outlive a crash. Data is deleted while nothing holds it:

- a blob is deleted under the lock of its digest, which a commit holds from before the data is in the
  store until its metadata is there;
- an ingest has its metadata before its data, under a name that is never used again;
- a snapshot that the backend has and the metadata not yet is in :attr:`Collector.unrecorded`.

The first collection also looks for data that no metadata knows, which only a crash leaves.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import anyio
from anyio.abc import TaskStatus

from orlopd.plugin.content import ContentStore
from orlopd.plugin.errors import OrlopError
from orlopd.plugin.snapshots import Snapshotter
from orlopd.plugin.values import now

from . import sweep
from .data import DataRemover
from .db import Connection, Database, from_micros
from .events import EventBus
from .locks import KeyedLocks
from .parts import Catalog
from .scope import Scope

log = logging.getLogger("orlopd.gc")

T = TypeVar("T")

MUTATIONS = 100
"""After so many changes a collection is due even if nothing was deleted."""

PAUSE = 0.02
"""The share of time that scheduled collections may take."""

_SHORTEST = 0.005
_LONGEST_WAIT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed."""

    removed: Mapping[str, int] = field(default_factory=lambda: Counter[str]())
    """Objects by kind: "images", "contents", "ingests", "snapshots", "leases"."""
    deleted: int = 0
    """Blobs, ingests and snapshots whose data was deleted."""
    freed: int = 0
    """Bytes of the blobs among them."""
    seconds: float = 0.0


_SINGULAR = {
    "images": "image",
    "contents": "blob",
    "ingests": "ingest",
    "snapshots": "snapshot",
    "leases": "lease",
}


def in_words(collected: Collected) -> str:
    """What a collection removed, as a line of the log."""
    size = _size(collected.freed)
    parts: list[str] = []
    for kind, word in _SINGULAR.items():
        if count := collected.removed.get(kind, 0):
            bytes_too = f" ({size})" if kind == "contents" and collected.freed else ""
            parts.append(f"{count} {word}{'' if count == 1 else 's'}{bytes_too}")
    if collected.freed and not collected.removed.get("contents"):
        parts.append(f"{size} of blobs deleted before")
    elif collected.deleted and not parts:
        parts.append(f"the data of {collected.deleted} deleted before")
    return f"collected: {', '.join(parts) or 'nothing'} in {collected.seconds:.2f} s"


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} byte{'' if count == 1 else 's'}"
    size, units = float(count), iter(("KiB", "MiB", "GiB", "TiB"))
    unit = ""
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{size:.1f} {unit}"


class _Undo(Exception):
    """Raised to have a change undone."""


class Collector:
    """Runs collections: when asked, and by itself after deletions and expiries."""

    def __init__(
        self,
        db: Database,
        content: ContentStore,
        snapshotters: Catalog[Snapshotter],
        events: EventBus,
        *,
        startup_delay: float = 0.1,
        delay: float = 0.0,
        interval: float = 0.0,
    ) -> None:
        """
        :param delay: seconds between a deletion and the collection it causes, so that one serves many
        :param interval: seconds between collections that nothing caused; 0 for never
        """
        self.blobs = KeyedLocks()
        """Locks by digest, see above."""
        self.unrecorded: set[tuple[str, str]] = set()
        """Snapshotter and key of snapshots that are being made."""
        self._db = db
        self._events = events
        self._data = DataRemover(db, content, snapshotters, self.blobs, self.unrecorded)
        self._startup_delay = startup_delay
        self._delay = delay
        self._interval = timedelta(seconds=interval)
        self._aliases = snapshotters.aliases
        self._lock = anyio.Lock()
        self._asked = self._done = 0
        self._last = Collected()
        self._due = False
        self._mutations = 0
        self._next_expiry: datetime | None = None
        self._poke = anyio.Event()
        db.on_write.append(self._mutated)

    async def collect(self) -> Collected:
        """Collect now and wait for the end. Calls that come while one runs share the next.

        :raises OrlopError: the database or a store failed; what was not done is done by the next
        """
        self._asked += 1
        ticket = self._asked
        async with self._lock:
            if self._done >= ticket:
                return self._last
            covers = self._asked
            self._due, self._mutations = False, 0
            result = await self._collect()
            self._mutations = 0
            self._done, self._last = covers, result
            return result

    async def preview(self, look: Callable[[Connection, Mapping[str, str]], T]) -> T:
        """What ``look`` finds in a change of its own that is undone whole, with the aliases of snapshotters.

        It may remove what it likes and call :func:`sweep.sweep`, to see what a collection would remove then.
        """
        found: list[T] = []

        def change(conn: Connection) -> None:
            found.append(look(conn, self._aliases))
            raise _Undo

        with suppress(_Undo):
            await self._db.write(change)
        return found[0]

    def schedule(self) -> None:
        """Have a collection run soon in the background."""
        self._due = True
        self._poke.set()

    def wake_at(self, when: datetime) -> None:
        """Have a collection run in the background when something expires at ``when``."""
        if self._next_expiry is None or when < self._next_expiry:
            self._next_expiry = when
            self._poke.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Collect in the background until cancelled; once soon after the start."""
        task_status.started()
        await anyio.sleep(self._startup_delay)
        while True:
            began = time.monotonic()
            try:
                await self.collect()
            except OrlopError as error:
                log.warning("garbage collection failed, the next will try again: %s", error)
            except Exception:
                log.exception("garbage collection failed, the next will try again")
            took = max(time.monotonic() - began, _SHORTEST)
            await anyio.sleep(took / PAUSE - took)
            await self._wait()
            await anyio.sleep(self._delay)

    async def _wait(self) -> None:
        began = now()
        while not self._due:
            # Clocks may be set: looked at again every hour at least.
            ends = [began + self._interval] if self._interval else []
            if self._next_expiry is not None:
                ends.append(self._next_expiry)
            until = min([*(end - now() for end in ends), _LONGEST_WAIT])
            if ends and min(ends) <= now():
                return
            with anyio.move_on_after(max(until.total_seconds(), 0) + 0.001):
                await self._poke.wait()
            self._poke = anyio.Event()

    def _mutated(self) -> None:
        self._mutations += 1
        if self._mutations == MUTATIONS:
            self.schedule()

    async def _collect(self) -> Collected:
        began = time.monotonic()
        swept = await self._db.write(lambda conn: sweep.sweep(conn, self._aliases), alone=True)
        self._next_expiry = None if swept.next_expiry is None else from_micros(swept.next_expiry)
        for namespace, name in swept.images:
            await self._events.emit(
                Scope(namespace),
                "/images/delete",
                "containerd.services.images.v1.ImageDelete",
                {"name": name},
            )
        for namespace, snapshotter, key in swept.snapshots:
            fields = {"key": key, "snapshotter": snapshotter}
            await self._events.emit(
                Scope(namespace), "/snapshot/remove", "containerd.events.SnapshotRemove", fields
            )
        deleted, freed = await self._data.remove()
        result = Collected(swept.counts, deleted, freed, time.monotonic() - began)
        if swept.counts or deleted:
            visible = bool(swept.counts or freed)
            log.log(logging.INFO if visible else logging.DEBUG, "%s", in_words(result))
        return result
