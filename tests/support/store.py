"""A metadata core over a real content store and a snapshotter in memory, for tests of both."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from orlop_plugins.content_local.store import LocalStore
from orlopd.core.parts import Catalog, Parts
from orlopd.core.scope import Scope
from orlopd.core.store import Store, open_store
from orlopd.plugin import Differ, Snapshotter
from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, NotFound
from orlopd.plugin.values import (
    NO_LABELS,
    Descriptor,
    Image,
    Labels,
    Mount,
    SnapshotInfo,
    SnapshotKind,
    Usage,
    now,
    sha256,
)

NS = Scope("testing")
OTHER = Scope("other")
PAST = (now() - timedelta(hours=1)).isoformat()
FUTURE = (now() + timedelta(hours=1)).isoformat()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class MemorySnapshotter:
    """A snapshotter of nothing but names. ``fail`` names calls that raise, ``remote`` what it has already."""

    def __init__(self) -> None:
        self.snapshots: dict[str, SnapshotInfo] = {}
        self.fail: dict[str, BaseException] = {}
        self.remote: set[str] = set()
        self.cleanups = 0

    async def _enter(self, call: str) -> None:
        await anyio.lowlevel.checkpoint()
        if call in self.fail:
            raise self.fail[call]

    def _get(self, key: str) -> SnapshotInfo:
        if key not in self.snapshots:
            raise NotFound(f"no snapshot {key}")
        return self.snapshots[key]

    async def stat(self, key: str) -> SnapshotInfo:
        await self._enter("stat")
        return self._get(key)

    async def set_labels(self, key: str, labels: Labels) -> SnapshotInfo:
        await self._enter("set_labels")
        self.snapshots[key] = replace(self._get(key), labels=labels)
        return self.snapshots[key]

    async def walk(self) -> AsyncIterator[SnapshotInfo]:
        await self._enter("walk")
        for info in tuple(self.snapshots.values()):
            yield info

    async def usage(self, key: str) -> Usage:
        self._get(key)
        return Usage(1, 100)

    async def mounts(self, key: str) -> Sequence[Mount]:
        return self._mounts(self._get(key))

    async def prepare(self, key: str, parent: str, labels: Labels = NO_LABELS) -> Sequence[Mount]:
        await self._enter("prepare")
        target = labels.get("containerd.io/snapshot.ref", "")
        if target in self.remote:
            name = f"remote-{target}"
            self.snapshots[name] = SnapshotInfo(name, SnapshotKind.COMMITTED, parent, labels)
            raise AlreadyExists(f"snapshot {target} is there")
        return self._make(key, parent, labels, SnapshotKind.ACTIVE)

    async def view(self, key: str, parent: str, labels: Labels = NO_LABELS) -> Sequence[Mount]:
        await self._enter("view")
        return self._make(key, parent, labels, SnapshotKind.VIEW)

    def _make(self, key: str, parent: str, labels: Labels, kind: SnapshotKind) -> Sequence[Mount]:
        if key in self.snapshots:
            raise AlreadyExists(f"snapshot {key} is there")
        if parent and self._get(parent).kind is not SnapshotKind.COMMITTED:
            raise FailedPrecondition(f"snapshot {parent} is not committed")
        self.snapshots[key] = SnapshotInfo(key, kind, parent, labels)
        return self._mounts(self.snapshots[key])

    @staticmethod
    def _mounts(info: SnapshotInfo) -> Sequence[Mount]:
        mode = "ro" if info.kind is SnapshotKind.VIEW else "rw"
        return [Mount("bind", f"/nowhere/{info.name}", ("rbind", mode))]

    async def commit(self, name: str, key: str, labels: Labels = NO_LABELS) -> None:
        await self._enter("commit")
        if self._get(key).kind is not SnapshotKind.ACTIVE:
            raise FailedPrecondition(f"snapshot {key} is not active")
        self.snapshots[name] = SnapshotInfo(
            name, SnapshotKind.COMMITTED, self.snapshots.pop(key).parent, labels
        )
        if "committed" in self.fail:
            raise self.fail["committed"]

    async def remove(self, key: str) -> None:
        await self._enter("remove")
        self._get(key)
        if any(info.parent == key for info in self.snapshots.values()):
            raise FailedPrecondition(f"snapshot {key} has children")
        del self.snapshots[key]

    async def cleanup(self) -> None:
        self.cleanups += 1


class World:
    """What outlives a daemon: the folder with database and content, and the snapshotter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.snapshotter = MemorySnapshotter()
        self.differs: list[Differ] = []

    @property
    def database(self) -> Path:
        return self.folder / "metadata.db"

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncGenerator[Store]:
        """Start a daemon's store; without ``gc_startup_delay`` nothing is collected unless asked for."""
        (self.folder / "content").mkdir(exist_ok=True)
        parts = Parts(
            content=await LocalStore.at(self.folder / "content"),
            snapshotters=Catalog[Snapshotter]("snapshotter", {"mem": self.snapshotter}, {"memory": "mem"}),
            differs=self.differs,
            resolvers=[],
            runtimes=Catalog("runtime", {}),
        )
        options.setdefault("gc_startup_delay", 1e6)
        async with open_store(self.database, parts, **options) as store:
            yield store

    @property
    def blobs(self) -> set[str]:
        """The digests of the blobs whose bytes are on the disk."""
        folder = self.folder / "content" / "blobs"
        return {f"{path.parent.name}:{path.name}" for path in folder.glob("*/*")}

    @property
    def ingests(self) -> int:
        """How many ingests are on the disk."""
        return sum(1 for _ in (self.folder / "content" / "ingest").iterdir())


async def put(store: Store, data: bytes, gc: Labels = NO_LABELS, *, scope: Scope = NS) -> str:
    """Bring in a blob. ``gc`` are its labels for collection, without ``containerd.io/gc.`` before them."""
    labels = {f"containerd.io/gc.{key}": value for key, value in gc.items()}
    return (await store.content.add_blob(scope, f"put-{secrets.token_hex(6)}", data, labels=labels)).digest


async def put_image(
    store: Store, name: str, digest: str, gc: Labels = NO_LABELS, *, scope: Scope = NS
) -> Image:
    """Name a blob; ``gc`` as in :func:`put`."""
    labels = {f"containerd.io/gc.{key}": value for key, value in gc.items()}
    return await store.images.create(scope, Image(name, Descriptor(MANIFEST, digest, 10), labels))


async def digests(store: Store, scope: Scope = NS) -> set[str]:
    """The digests of the blobs that a namespace sees."""
    return {info.digest async for info in store.content.walk(scope)}


async def keys(store: Store, scope: Scope = NS) -> set[str]:
    """The keys of the snapshots that a namespace sees."""
    return {info.name async for info in store.snapshots.for_name("mem").walk(scope)}


async def chain(store: Store, *names: str, scope: Scope = NS) -> None:
    """Commit snapshots one upon the other."""
    snapshotter = store.snapshots.for_name("mem")
    parent = ""
    for name in names:
        await snapshotter.prepare(scope, f"{name}-active", parent)
        await snapshotter.commit(scope, name, f"{name}-active")
        parent = name


def digest_of(data: bytes) -> str:
    """The digest of ``data``."""
    return sha256(data)


async def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what happens in the background."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 (nothing tells)
            await anyio.sleep(0.01)
