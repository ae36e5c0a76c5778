"""The daemon about itself: what it stores, why, what it finds amiss, its events and plugins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ._kinds import ObjectKind, PluginStatus


@dataclass(frozen=True, slots=True)
class Info:
    """What a daemon is, where it keeps things, what it can do."""

    root_dir: str
    state_dir: str
    default_snapshotter: str
    default_runtime: str
    containers: int
    containers_running: int
    images: int
    cgroup_mode: str
    kernel: str
    architecture: str
    extra: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """The daemon's version and those of what it stands on."""

    version: str
    revision: str
    python: str
    containerd_api: str


@dataclass(frozen=True, slots=True)
class Usage:
    """How many of something there are, and the bytes they take on disk."""

    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """What the namespace takes on disk; ``snapshots`` by snapshotter.

    ``reclaimable`` are the bytes of content that a prune frees, ``reclaimable_all`` those of a prune of
    stopped containers and unused images too; ``reclaimable_snapshots`` what that frees of each snapshotter.
    """

    content: Usage
    snapshots: Mapping[str, Usage]
    reclaimable: int
    reclaimable_all: int = 0
    reclaimable_snapshots: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class ObjectUsage:
    """A blob or a snapshot, its bytes, and what keeps it; ``keepers`` are counted up to ten."""

    kind: ObjectKind
    id: str
    bytes: int
    created_at: datetime | None
    kept_by: str
    keepers: int


@dataclass(frozen=True, slots=True)
class ReferenceLink:
    """An object that leads to the next by ``reference``; the first has a ``reason`` and perhaps an end."""

    kind: ObjectKind
    id: str
    reference: str
    reason: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Removal:
    """How something went; ``collected`` unless somebody removed it by name."""

    kind: ObjectKind
    id: str
    at: datetime | None
    collected: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an object is there, ``chains`` from what keeps it to it; or when it is not, how it went."""

    kind: ObjectKind
    id: str
    present: bool
    chains: tuple[tuple[ReferenceLink, ...], ...]
    more_chains: bool
    removals: tuple[Removal, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check found wrong; ``repaired`` says what was done about it, ``hint`` what can be."""

    code: str
    namespace: str
    object: str
    message: str
    repaired: str
    hint: str


@dataclass(frozen=True, slots=True)
class CheckProgress:
    """How far a check is, in blobs and bytes."""

    stage: str
    blobs: int
    blobs_total: int
    bytes: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """What a check came to, in findings, blobs, bytes hashed and snapshots."""

    findings: int
    repaired: int
    blobs: int
    bytes: int
    snapshots: int


@dataclass(frozen=True, slots=True)
class PrunedObject:
    """Something that a prune removed, or would remove: snapshots are SNAPSHOTTER/KEY."""

    kind: ObjectKind
    id: str
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune removed, or would remove; ``more`` objects beside those named, ``reclaimed`` in bytes."""

    objects: tuple[PrunedObject, ...]
    reclaimed: int
    more: int = 0

    def _ids(self, kind: ObjectKind) -> tuple[str, ...]:
        return tuple(each.id for each in self.objects if each.kind is kind)

    @property
    def containers(self) -> tuple[str, ...]:
        """The ids of the containers among them."""
        return self._ids(ObjectKind.CONTAINER)

    @property
    def images(self) -> tuple[str, ...]:
        """The names of the images among them."""
        return self._ids(ObjectKind.IMAGE)

    @property
    def blobs(self) -> tuple[str, ...]:
        """The digests of the blobs among them."""
        return self._ids(ObjectKind.BLOB)

    @property
    def snapshots(self) -> tuple[str, ...]:
        """The snapshots among them."""
        return self._ids(ObjectKind.SNAPSHOT)


@dataclass(frozen=True, slots=True)
class Event:
    """One event; ``json`` is the event's message, ``type_url`` what kind of message it is."""

    at: datetime | None
    namespace: str
    topic: str
    type_url: str
    json: str


@dataclass(frozen=True, slots=True)
class EventsGap:
    """A notice among events: from ``since`` on some may be missing, from ``until`` on all are there."""

    since: datetime | None
    until: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin of the daemon, those that failed or do not suit its machine included."""

    kind: str
    id: str
    status: PluginStatus
    reason: str = ""
    origin: str = ""
    aliases: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
