"""What the engine stands on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from orlopd.core.containers import Containers
from orlopd.core.content import Content
from orlopd.core.events import EventBus
from orlopd.core.gc import Collector
from orlopd.core.images import Images
from orlopd.core.leases import Leases
from orlopd.core.locks import KeyedLocks
from orlopd.core.namespaces import DEFAULT_RUNTIME_LABEL, DEFAULT_SNAPSHOTTER_LABEL, Namespaces
from orlopd.core.parts import Catalog, Hooks
from orlopd.core.pull import Puller
from orlopd.core.scope import Scope
from orlopd.core.snapshots import Snapshots
from orlopd.core.stored_images import StoredImages
from orlopd.core.tasks import Tasks
from orlopd.core.unpack import Unpacker
from orlopd.core.upkeep import Upkeep
from orlopd.plugin.diff import Differ
from orlopd.plugin.errors import NotFound
from orlopd.plugin.runtime import Runtime

from .finishing import Finisher
from .folder import Folders

Key = tuple[str, str, str]
"""Namespace, container and exec."""


class Connections:
    """How many clients of the engine are connected to which process."""

    def __init__(self) -> None:
        self._count: Counter[Key] = Counter()
        self._changed = anyio.Event()

    @contextmanager
    def hold(self, key: Key) -> Generator[None]:
        """Count a client while the block lasts."""
        self._count[key] += 1
        try:
            yield
        finally:
            self._count[key] -= 1
            if not self._count[key]:
                del self._count[key]
            self._changed.set()
            self._changed = anyio.Event()

    def any(self, key: Key) -> bool:
        """Whether a client is connected."""
        return self._count[key] > 0

    async def none_left(self, key: Key, timeout: float) -> None:
        """Wait until no client is connected, ``timeout`` seconds at most."""
        with anyio.move_on_after(timeout):
            while self.any(key):
                await self._changed.wait()


@dataclass(frozen=True, slots=True)
class Context:
    """The core's parts, and what the engine's own share."""

    folders: Folders
    namespaces: Namespaces
    containers: Containers
    content: Content
    images: Images
    snapshots: Snapshots
    leases: Leases
    gc: Collector
    upkeep: Upkeep
    events: EventBus
    tasks: Tasks
    stored: StoredImages
    unpacker: Unpacker
    puller: Puller
    differs: Sequence[Differ]
    runtimes: Catalog[Runtime]
    hooks: Hooks
    snapshotter: str
    runtime: str
    volumes: Path
    cdi_folders: tuple[Path, ...] = ()
    locks: KeyedLocks = field(default_factory=KeyedLocks)
    connections: Connections = field(default_factory=Connections)
    finisher: Finisher = field(default_factory=Finisher)
    stopping: anyio.Event = field(default_factory=anyio.Event)

    async def default_snapshotter(self, scope: Scope) -> str:
        """The namespace's or the daemon's default."""
        return await self._label(scope, DEFAULT_SNAPSHOTTER_LABEL) or self.snapshotter

    async def default_runtime(self, scope: Scope) -> str:
        """The namespace's or the daemon's default."""
        return await self._label(scope, DEFAULT_RUNTIME_LABEL) or self.runtime

    def lock(self, scope: Scope, id: str) -> str:
        """The key of a container's lock."""
        return f"{scope.namespace}/id/{id}"

    async def _label(self, scope: Scope, label: str) -> str:
        with suppress(NotFound):  # never made: as a namespace without labels
            return (await self.namespaces.get(scope.namespace)).labels.get(label, "")
        return ""
