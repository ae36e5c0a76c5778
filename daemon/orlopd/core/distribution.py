"""How images come and go, as one thing for the core to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from .archive import Archiver
from .build import Builder
from .parts import Parts
from .pull import CONCURRENCY, Puller
from .store import Store
from .unpack import Unpacker


@dataclass(frozen=True, slots=True)
class Distribution:
    """Pull, unpack, import, export and build over one store."""

    unpacker: Unpacker
    puller: Puller
    archiver: Archiver
    builder: Builder

    @classmethod
    def make(cls, store: Store, parts: Parts, *, snapshotter: str, concurrency: int = CONCURRENCY) -> Self:
        """
        :param snapshotter: the one that is meant when a call names none
        :param concurrency: the most blobs one pull fetches at a time
        """
        content, images, leases = store.content, store.images, store.leases
        unpacker = Unpacker(content, store.snapshots, store.diffs, leases, default=snapshotter)
        puller = Puller(
            content, images, unpacker, parts.resolvers, leases, parts.hooks, concurrency=concurrency
        )
        archiver = Archiver(content, images, unpacker, leases, parts.hooks)
        return cls(unpacker, puller, archiver, Builder(content, images, leases))
