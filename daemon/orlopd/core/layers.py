"""The layers of one image on their way to an unpack: fetched once somebody needs one, let go when unpacked.

A remote snapshotter may have a layer without its blob. It says so when it is asked to prepare the layer's
snapshot, so nothing is fetched before the first layer that it does not have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from orlopd.plugin.values import Descriptor, Labels

from .arrival import Arrival
from .fetch import Coming
from .leases import Leases, Resource
from .scope import Scope

_REFERENCE = "containerd.io/snapshot/cri.image-ref"
_MANIFEST = "containerd.io/snapshot/cri.manifest-digest"
_LAYER = "containerd.io/snapshot/cri.layer-digest"
_LAYERS = "containerd.io/snapshot/cri.image-layers"
_LONGEST_LABEL = 4096

Fetch = Callable[[Descriptor, Coming], Awaitable[None]]


def layer_hints(name: str, manifest: str, layers: Sequence[Descriptor]) -> Labels:
    """What a remote snapshotter has to know to get a layer by itself, as labels on prepare.

    The keys are those that containerd's clients set (its package ``snapshotters``), the values as well: a
    snapshotter may fetch ahead what lies above.

    :param name: the image's full reference; without one there is nowhere to get anything
    :param manifest: the digest of the image's manifest
    :param layers: the layer and those above it, bottom first
    """
    if not name or not layers:
        return {}
    listed = ""
    for each in layers:
        longer = f"{listed},{each.digest}" if listed else each.digest
        if len(_LAYERS) + len(longer) > _LONGEST_LABEL:
            break
        listed = longer
    hints = {_REFERENCE: name, _MANIFEST: manifest, _LAYER: layers[0].digest, _LAYERS: listed}
    return {key: value for key, value in hints.items() if len(key) + len(value) <= _LONGEST_LABEL}


def came_by_itself(labels: Labels) -> bool:
    """Whether a committed snapshot is a remote snapshotter's own: it kept the labels of its prepare."""
    return _LAYER in labels


class Arrivals:
    """The blobs of layers, each fetched when it or one below it is first waited for.

    :param fetch: has a layer's blob in the content store
    :param longest_first: fetch the largest first, where layers are unpacked in any order
    """

    def __init__(
        self,
        group: TaskGroup,
        layers: Sequence[Descriptor],
        fetch: Fetch,
        *,
        concurrency: int,
        longest_first: bool,
    ) -> None:
        self._group = group
        self._layers = layers
        self._fetch = fetch
        self._limiter = anyio.CapacityLimiter(concurrency)
        self._longest_first = longest_first
        self._arrived = [anyio.Event() for _ in layers]
        self._stirred = [anyio.Event() for _ in layers]
        self._arrivals: dict[int, Arrival] = {}
        self._begun = len(layers)

    @property
    def untouched(self) -> Sequence[Descriptor]:
        """The layers that nobody has needed so far."""
        return self._layers[: self._begun]

    def begin(self, first: int = 0) -> None:
        """Have the layers from number ``first`` on fetched."""
        order = list(range(first, self._begun))
        self._begun = min(self._begun, first)
        if self._longest_first:
            # The longest work first, so that nobody waits for it alone in the end.
            order.sort(key=lambda number: -self._layers[number].size)
        for number in order:
            self._group.start_soon(self._one, number)

    async def wait(self, number: int) -> None:
        """Wait until a layer is in the content store."""
        self.begin(number)
        await self._arrived[number].wait()

    async def coming(self, number: int) -> Arrival | None:
        """Wait until a layer begins to come and can be read meanwhile, or is in the store: then None."""
        self.begin(number)
        await self._stirred[number].wait()
        return self._arrivals.get(number)

    async def _one(self, number: int) -> None:
        def begin(arrival: Arrival) -> None:
            self._arrivals[number] = arrival
            self._stirred[number].set()

        async with self._limiter:
            await self._fetch(self._layers[number], begin)
        self._arrivals.pop(number, None)
        self._arrived[number].set()
        self._stirred[number].set()


class Passage:
    """Keeps layers no longer than until they are unpacked.

    Each is held by a lease of the pull's own, not by the manifest; without that, and with no other image to
    need it, the next collection takes it.
    """

    def __init__(self, leases: Leases, scope: Scope, layers: Sequence[Descriptor]) -> None:
        self._leases = leases
        self._scope = scope
        self._layers = layers
        # A layer may be there twice, and is to stay until both are unpacked.
        self._left = Counter(layer.digest for layer in layers)

    async def hold(self, layer: Descriptor) -> None:
        """Keep a layer from now on, be it there already or not."""
        await self._leases.add_resource(self._scope, self._scope.lease, Resource("content", layer.digest))

    async def let_go(self, number: int) -> None:
        """A layer is unpacked."""
        digest = self._layers[number].digest
        self._left[digest] -= 1
        if not self._left[digest]:
            await self._leases.delete_resource(self._scope, self._scope.lease, Resource("content", digest))


@asynccontextmanager
async def passage(leases: Leases, scope: Scope, layers: Sequence[Descriptor]) -> AsyncGenerator[Passage]:
    """A :class:`Passage` for the length of the block; at its end the layers are nobody's."""
    # Not the caller's lease, which may outlive the pull.
    async with leases.hold(Scope(scope.namespace)) as own:
        yield Passage(leases, own, layers)
