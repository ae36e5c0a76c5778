"""A store with real parts and everything that moves images, without a daemon around it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from orlop_plugins.content_local.store import LocalStore
from orlop_plugins.layout import plugin as layout
from orlop_plugins.registry.config import RegistryConfig
from orlop_plugins.registry.resolver import RegistryResolver
from orlop_plugins.tar import plugin as tar
from orlop_plugins.vfs.snapshotter import VfsSnapshotter
from orlopd.core.content import Sharing
from orlopd.core.distribution import Distribution
from orlopd.core.parts import Catalog, NoHooks, Parts
from orlopd.core.progress import BlobProgress, BlobState, PullEvent, Resolved
from orlopd.core.scope import Scope
from orlopd.core.store import Store, open_store
from orlopd.plugin.errors import PermissionDenied
from orlopd.plugin.snapshots import Snapshotter
from orlopd.plugin.values import Descriptor
from orlopd.plugin.verifier import Verifier
from tests.support.faulty import faulty_registry
from tests.support.images import make_image, text_layer
from tests.support.registry import registry

SCOPE = Scope("tests")
FAST = RegistryConfig(
    connect_timeout=10, first_byte_timeout=20, stall_timeout=20, retries=2, backoff=0.01, longest_wait=1
)
"""Tries again at once, and does not take a busy machine for a registry that is silent."""
HASTY = FAST.model_copy(update={"connect_timeout": 1, "first_byte_timeout": 0.5, "stall_timeout": 0.5})
"""For registries that are silent."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


class Hooks(NoHooks):
    """Participants that refuse what the test names."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.seen: list[str] = []

    async def check_image(self, namespace: str, name: str, target: Descriptor) -> None:
        self.seen.append(f"{namespace} {name} {target.digest}")
        if name in self.refused:
            raise PermissionDenied(f"image {name} is not allowed here")


class Rig:
    """The store, what moves images over it, and what they told."""

    def __init__(self, store: Store, distribution: Distribution, hooks: Hooks) -> None:
        self.store = store
        self.hooks = hooks
        self.puller = distribution.puller
        self.pusher = distribution.pusher
        self.stored = distribution.stored
        self.unpacker = distribution.unpacker
        self.archiver = distribution.archiver
        self.builder = distribution.builder
        self.referrers = distribution.referrers
        self.sharer = distribution.sharer
        self.transfers = distribution.transfers
        self.events: list[PullEvent] = []

    def report(self, event: PullEvent) -> None:
        self.events.append(event)

    async def pull(self, reference: str, **options: Any) -> Any:
        """Pull in the namespace of the tests, events kept."""
        return await self.puller.pull(SCOPE, reference, report=self.report, **options)

    async def push(self, name: str, reference: str = "", **options: Any) -> Any:
        """Push an image of the tests' namespace, events kept."""
        image = await self.store.images.get(SCOPE, name)
        return await self.pusher.push(SCOPE, image, reference, report=self.report, **options)

    def states(self, digest: str) -> list[BlobState]:
        """The states that a blob was reported in, each change once."""
        told: list[BlobState] = []
        for event in self.events:
            if isinstance(event, BlobProgress) and event.digest == digest and event.state not in told[-1:]:
                told.append(event.state)
        return told

    @property
    def resolved(self) -> list[Resolved]:
        return [event for event in self.events if isinstance(event, Resolved)]

    async def digests(self) -> set[str]:
        """What content there is, after a collection."""
        await self.store.gc.collect()
        return {info.digest async for info in self.store.content.walk(SCOPE)}

    async def left(self) -> dict[str, list[str]]:
        """Everything there is, after a collection, by kind."""
        digests = await self.digests()
        snapshots = self.store.snapshots.for_name("vfs")
        return {
            "content": sorted(digests),
            "ingests": [status.ref for status in await self.store.content.statuses(SCOPE)],
            "leases": [lease.id for lease in await self.store.leases.list(SCOPE)],
            "images": [image.name for image in await self.store.images.list(SCOPE)],
            "snapshots": [info.name async for info in snapshots.walk(SCOPE)],
        }

    async def left_but_ingests(self, *layers: str) -> dict[str, list[str]]:
        """As :meth:`left`, without ingests of these layers: a failing pull cancels what its siblings do."""
        left = await self.left()
        passed_over = {f"layer-{layer}" for layer in layers}
        return left | {"ingests": [ref for ref in left["ingests"] if ref not in passed_over]}


NOTHING: dict[str, list[str]] = {"content": [], "ingests": [], "leases": [], "images": [], "snapshots": []}


@asynccontextmanager
async def open_rig(
    root: Path,
    config: RegistryConfig = FAST,
    verifiers: Sequence[Verifier] = (),
    snapshotters: Mapping[str, Snapshotter] | None = None,
    *,
    sharing: Sharing = Sharing.SHARED,
    discard: bool = False,
) -> AsyncIterator[Rig]:
    """A rig below ``root``; again over what an earlier one left there.

    :param snapshotters: further ones beside ``vfs``, which is the default
    """
    log = logging.getLogger("tests")
    for name in ("content", "vfs", "state"):
        (root / name).mkdir(exist_ok=True, parents=True)
    async with AsyncExitStack() as stack:
        hooks = Hooks()
        [provider] = tar.orlop_differs()
        context: Any = SimpleNamespace(config=tar.UnpackConfig(), state=root / "state", log=log)
        differ: Any = await _settled(provider.open(context))
        stack.push_async_callback(differ.aclose)
        files: list[Any] = [each.open(context) for each in layout.orlop_resolvers()]
        parts = Parts(
            content=await LocalStore.at(root / "content"),
            snapshotters=Catalog(
                "snapshotter", {"vfs": VfsSnapshotter(root / "vfs"), **(snapshotters or {})}
            ),
            differs=[differ],
            resolvers=[*files, RegistryResolver(config, log)],
            runtimes=Catalog("runtime", {}),
            hooks=hooks,
            verifiers=verifiers,
        )
        store = await stack.enter_async_context(open_store(root / "metadata.db", parts, sharing=sharing))
        yield Rig(store, Distribution.make(store, parts, snapshotter="vfs", discard=discard), hooks)


async def _settled(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path) as opened:
        with blockbuster_ctx(["orlopd.core", "orlop_plugins.registry"]):
            yield opened


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path, HASTY) as opened:
        with blockbuster_ctx(["orlopd.core", "orlop_plugins.registry"]):
            yield opened


@pytest.fixture(scope="session")
def server() -> Any:
    """A real registry that the tests of a worker share, each under names of its own."""
    with registry() as running:
        yield running


@pytest.fixture
def faulty() -> Any:
    """A registry to be told what to do wrong; it serves an image of two small layers."""
    with faulty_registry(
        make_image([text_layer("one", "1" * 5000), text_layer("two", "2" * 5000)])
    ) as running:
        yield running
