"""The metadata core as one thing: opened, recovered, with its background work running."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from .check import Checker
from .containers import Containers
from .content import Content, Sharing
from .db import Database
from .diffs import Diffs
from .events import EventBus, Observer
from .gc import Collector
from .images import Images
from .journal import MOST, MOST_BYTES, Journal
from .leases import Leases
from .namespaces import Namespaces
from .parts import Parts
from .snapshots import Snapshots
from .upkeep import Upkeep
from .why import Explainer


@dataclass(frozen=True, slots=True)
class Store:
    """Everything that the database keeps, and the events of its changes."""

    db: Database
    events: EventBus
    gc: Collector
    namespaces: Namespaces
    content: Content
    images: Images
    containers: Containers
    leases: Leases
    snapshots: Snapshots
    diffs: Diffs
    explainer: Explainer
    upkeep: Upkeep
    checker: Checker


JOURNAL = "events.db"
"""The journal's name, beside the database."""


@asynccontextmanager
async def open_store(
    path: Path,
    parts: Parts,
    *,
    default_snapshotter: str = "",
    observers: Sequence[Observer] = (),
    sharing: Sharing = Sharing.SHARED,
    gc_delay: float = 0.0,
    gc_interval: float = 0.0,
    gc_startup_delay: float = 0.1,
    journal_events: int = MOST,
    journal_bytes: int = MOST_BYTES,
) -> AsyncGenerator[Store]:
    """Open the database at ``path`` over the opened parts, for the length of the block.

    :param default_snapshotter: the one that ``snapshots.for_name("")`` is
    :param observers: called with every event
    :param gc_delay: seconds from a deletion to the collection that follows it
    :param gc_interval: seconds between collections without a deletion; 0 for never
    :param journal_events: how many events the journal beside the database keeps
    :param journal_bytes: how many bytes they may come to
    :raises FailedPrecondition: a newer program wrote the database
    :raises DataLoss: the database is damaged
    """
    db = await Database.open(path)
    journal: Journal | None = None
    try:
        journal = await Journal.open(path.with_name(JOURNAL), most=journal_events, most_bytes=journal_bytes)
        events = EventBus(observers, journal=journal)
        gc = Collector(
            db,
            parts.content,
            parts.snapshotters,
            events,
            startup_delay=gc_startup_delay,
            delay=gc_delay,
            interval=gc_interval,
        )
        content = Content(db, parts.content, events, gc, sharing=sharing)
        snapshots = Snapshots(db, parts.snapshotters, events, gc, default=default_snapshotter)
        explainer = Explainer(db, parts.snapshotters.aliases)
        store = Store(
            db,
            events,
            gc,
            Namespaces(db, events, gc),
            content,
            Images(db, events, gc),
            Containers(db, events, gc),
            Leases(db, gc),
            snapshots,
            Diffs(content, parts.differs, parts.processors),
            explainer,
            Upkeep(db, gc, snapshots, explainer),
            Checker(db, parts.content, parts.snapshotters, gc),
        )
        await content.recover()
        await store.snapshots.recover()
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            await group.start(journal.run)
            await group.start(events.run)
            await group.start(gc.run)
            try:
                yield store
            except Exception as error:
                # Raised below as it is, not in the group's clothes.
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
    finally:
        if journal is not None:
            await journal.aclose()
        await db.aclose()
