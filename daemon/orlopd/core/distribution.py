"""How images come and go, as one thing for the core to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from .archive import Archiver
from .build import Builder
from .parts import ImageChecks, Parts
from .pull import CONCURRENCY, Puller
from .push import Pusher
from .referrers import ReferrerLists
from .sharing import Sharer
from .store import Store
from .stored_images import StoredImages
from .transfer import Transfers
from .unpack import Unpacker


@dataclass(frozen=True, slots=True)
class Distribution:
    """Pull, push, unpack, import, export and build over one store."""

    stored: StoredImages
    unpacker: Unpacker
    puller: Puller
    pusher: Pusher
    archiver: Archiver
    builder: Builder
    transfers: Transfers
    referrers: ReferrerLists
    sharer: Sharer

    @classmethod
    def make(
        cls,
        store: Store,
        parts: Parts,
        *,
        snapshotter: str,
        concurrency: int = CONCURRENCY,
        discard: bool = False,
    ) -> Self:
        """
        :param snapshotter: the one that is meant when a call names none
        :param concurrency: the most blobs one pull or push moves at a time
        :param discard: whether pulls and imports drop layers that they have unpacked, if they do not say
        """
        content, images, leases = store.content, store.images, store.leases
        checks = ImageChecks(parts.verifiers, parts.hooks)
        stored = StoredImages(content)
        unpacker = Unpacker(content, stored, store.snapshots, store.diffs, leases, default=snapshotter)
        resolvers = parts.resolvers
        puller = Puller(
            content, images, unpacker, resolvers, leases, checks, concurrency=concurrency, discard=discard
        )
        archiver = Archiver(content, images, stored, unpacker, leases, checks, discard=discard)
        pusher = Pusher(content, stored, resolvers, leases, concurrency=concurrency)
        transfers = Transfers(puller, pusher, archiver, stored, unpacker, images, leases, discard=discard)
        builder = Builder(content, images, leases)
        sharer, referrers = Sharer(content, images, leases), ReferrerLists(resolvers)
        return cls(stored, unpacker, puller, pusher, archiver, builder, transfers, referrers, sharer)
