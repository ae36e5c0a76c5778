"""The core, whole: everything that things mean, made of the opened parts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import anyio

from . import platforms
from .archive import Archiver
from .build import Builder
from .check import Checker
from .checkpoints import Checkpoints
from .containers import Containers
from .content import Content, Sharing
from .diffs import Diffs
from .distribution import Distribution
from .engine import Context, Engine, Folders
from .events import EventBus
from .gc import Collector
from .images import Images
from .leases import Leases
from .mounts import Mounts
from .namespaces import Namespaces
from .parts import PartInfo, Parts, Settings
from .pull import Puller
from .push import Pusher
from .referrers import ReferrerLists
from .sharing import Sharer
from .snapshots import Snapshots
from .store import Store, open_store
from .tasks import Tasks
from .transfer import Transfers
from .upkeep import Upkeep
from .why import Explainer


@dataclass(frozen=True, slots=True)
class Core:
    """What the services call. Made by :meth:`open`."""

    settings: Settings
    parts: Parts
    events: EventBus
    gc: Collector
    namespaces: Namespaces
    content: Content
    images: Images
    containers: Containers
    leases: Leases
    mounts: Mounts
    snapshots: Snapshots
    diffs: Diffs
    explainer: Explainer
    upkeep: Upkeep
    checker: Checker
    puller: Puller
    pusher: Pusher
    archiver: Archiver
    builder: Builder
    transfers: Transfers
    referrers: ReferrerLists
    sharer: Sharer
    tasks: Tasks
    engine: Engine

    @property
    def plugins(self) -> Sequence[PartInfo]:
        """Every part and every broken plugin, in order of kind and id."""
        return self.parts.plugins

    @property
    def architecture(self) -> str:
        """This machine's architecture, as Go spells it."""
        return platforms.current().architecture

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, parts: Parts) -> AsyncGenerator[Self]:
        """Open the database, recover what an earlier daemon left, and begin the background work.

        :raises OrlopError: the database cannot be used
        """
        async with (
            open_store(
                settings.root / "metadata.db",
                parts,
                observers=[parts.hooks.event],
                default_snapshotter=settings.snapshotter,
                sharing=Sharing(settings.content_sharing),
                gc_startup_delay=settings.gc_startup_delay,
                gc_delay=settings.gc_delay,
                gc_interval=settings.gc_interval,
                journal_events=settings.journal_events,
                journal_bytes=settings.journal_bytes,
            ) as store,
            Tasks(
                parts.runtimes,
                store.containers,
                Checkpoints(store.content, store.diffs, settings.root / "checkpoints"),
                store.events,
                state=settings.state / "core-tasks",
            ) as tasks,
            anyio.create_task_group() as group,
        ):
            await tasks.recover()
            distribution = Distribution.make(
                store, parts, snapshotter=settings.snapshotter, discard=settings.discard_unpacked
            )
            engine = Engine(_engine_context(settings, parts, store, tasks, distribution))
            await group.start(engine.run)
            mounts = Mounts(settings.state / "mounts", parts.mount_handlers, store.leases)
            await mounts.recover()
            group.start_soon(mounts.run)
            yield cls(
                settings=settings,
                parts=parts,
                events=store.events,
                gc=store.gc,
                namespaces=store.namespaces,
                content=store.content,
                images=store.images,
                containers=store.containers,
                leases=store.leases,
                mounts=mounts,
                snapshots=store.snapshots,
                diffs=store.diffs,
                explainer=store.explainer,
                upkeep=store.upkeep,
                checker=store.checker,
                puller=distribution.puller,
                pusher=distribution.pusher,
                archiver=distribution.archiver,
                builder=distribution.builder,
                transfers=distribution.transfers,
                referrers=distribution.referrers,
                sharer=distribution.sharer,
                tasks=tasks,
                engine=engine,
            )
            group.cancel_scope.cancel()


def _engine_context(
    settings: Settings, parts: Parts, store: Store, tasks: Tasks, distribution: Distribution
) -> Context:
    return Context(
        folders=Folders(settings.root / "containers"),
        namespaces=store.namespaces,
        containers=store.containers,
        images=store.images,
        content=store.content,
        snapshots=store.snapshots,
        leases=store.leases,
        gc=store.gc,
        upkeep=store.upkeep,
        events=store.events,
        tasks=tasks,
        stored=distribution.stored,
        unpacker=distribution.unpacker,
        puller=distribution.puller,
        differs=parts.differs,
        runtimes=parts.runtimes,
        hooks=parts.hooks,
        snapshotter=settings.snapshotter,
        runtime=settings.runtime,
        volumes=settings.root / "volumes",
        cdi_folders=settings.cdi_spec_dirs,
    )
