"""What the model keeps: namespaces with what they hold, and the bytes that they share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.model import marking
from tests.model.client import Where
from tests.model.values import Image, Labels, Refused, Snapshot

T = TypeVar("T")


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass(eq=False)
class Row:
    """An ingest. ``data`` is None while the store has none of it."""

    data: bytes | None = None
    total: int = 0
    expected: str = ""
    unleased: bool = False
    stream: Stream | None = None
    """Who has it open."""
    live_total: int = 0


@dataclass(eq=False)
class Stream:
    """An open Write."""

    where: Where
    ref: str
    row: Row
    shared: bytes | None
    """The bytes of another namespace at whose end it stands, until it is written."""
    total: int = 0
    expected: str = ""
    gone_at: int | None = None
    """The offset at which the ingest was taken from under it."""

    @property
    def offset(self) -> int:
        if self.gone_at is not None:
            return self.gone_at
        if self.shared is not None:
            return len(self.shared)
        return len(self.row.data or b"")


@dataclass(eq=False)
class Lease:
    labels: Labels
    resources: set[tuple[str, str]] = field(default_factory=set)


@dataclass(eq=False)
class Room:
    """What a namespace holds."""

    labels: Labels = field(default_factory=dict)
    contents: dict[str, tuple[int, Labels]] = field(default_factory=dict)
    ingests: dict[str, Row] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    containers: dict[str, tuple[str, Labels]] = field(default_factory=dict)


class Rooms:
    """All namespaces, and the bytes that they share."""

    def __init__(self, snapshotter: str, *, sharing: bool) -> None:
        """:param sharing: whether everybody may have every blob by naming it"""
        self.snapshotter = snapshotter
        self._sharing = sharing
        self.rooms: dict[str, Room] = {}
        self.disk: dict[str, bytes] = {}
        self._orphans: list[Row] = []

    # --- Collection ----------------------------------------------------------------------------------

    def collect(self) -> None:
        """Everything that no root reaches goes."""
        self.sweep()
        self.free()

    def sweep(self) -> None:
        """The first half of a collection: what is known."""
        for room in self.rooms.values():
            kept = marking.mark(room, self.snapshotter)
            for ref, row in list(room.ingests.items()):
                if ("ingest", ref) not in kept:
                    del room.ingests[ref]
                    self._orphans.append(row)
            for kind, objects in (
                ("content", room.contents),
                ("image", room.images),
                ("lease", room.leases),
                ("snapshot", room.snapshots),
            ):
                for key in [key for key in objects if (kind, key) not in kept]:
                    del objects[key]

    def free(self) -> None:
        """The other half: bytes that nobody knows any more."""
        for row in self._orphans:
            self._take(row)
        self._orphans.clear()
        wanted = {digest for room in self.rooms.values() for digest in room.contents}
        wanted |= {row.expected for room in self.rooms.values() for row in room.ingests.values()}
        self.disk = {digest: data for digest, data in self.disk.items() if digest in wanted}

    def shape(self) -> object:
        """Equal for models that cannot be told apart."""
        rooms = [
            (
                name,
                sorted(room.labels.items()),
                sorted(
                    (digest, size, sorted(labels.items())) for digest, (size, labels) in room.contents.items()
                ),
                sorted((ref, _row_shape(row)) for ref, row in room.ingests.items()),
                sorted((name, repr(image)) for name, image in room.images.items()),
                sorted(
                    (name, sorted(each.labels.items()), sorted(each.resources))
                    for name, each in room.leases.items()
                ),
                sorted((key, repr(snapshot)) for key, snapshot in room.snapshots.items()),
                sorted((name, repr(container)) for name, container in room.containers.items()),
            )
            for name, room in sorted(self.rooms.items())
        ]
        return rooms, sorted(self.disk), sorted(map(_row_shape, self._orphans))

    def stream_shape(self, stream: Stream) -> object:
        """Equal for streams that cannot be told apart."""
        row = _row_shape(stream.row)
        return (
            stream.offset,
            stream.shared,
            stream.gone_at,
            stream.total,
            stream.expected,
            row,
            self._has_row(stream),
        )

    @property
    def ingest_count(self) -> int:
        """How many ingests have bytes, or a place for them, on the disk."""
        return sum(row.data is not None for room in self.rooms.values() for row in room.ingests.values())

    @staticmethod
    def _take(row: Row) -> None:
        if row.stream is not None:
            row.stream.gone_at = row.stream.offset
        row.data = row.stream = None

    # --- Common --------------------------------------------------------------------------------------

    def _seen(self, where: Where | str) -> Room:
        """To look at: a namespace that is not there is empty."""
        name = where if isinstance(where, str) else where.namespace
        return self.rooms.get(name) or Room()

    def _made(self, where: Where) -> Room:
        """To put something in: the first object makes the namespace."""
        return self.rooms.setdefault(where.namespace, Room())

    def _lease(self, where: Where) -> Lease | None:
        if not where.lease:
            return None
        return get(self._seen(where).leases, where.lease)

    def _let_go(self, where: Where, type: str, id: str) -> None:
        lease = self._seen(where).leases.get(where.lease)
        if lease is not None:
            lease.resources.discard((type, id))

    @property
    def _snapshots(self) -> str:
        return f"snapshots/{self.snapshotter}"

    def _has_row(self, stream: Stream) -> bool:
        return self._seen(stream.where).ingests.get(stream.ref) is stream.row


def kept(labels: Labels) -> Labels:
    """Labels as they are stored: an empty value is none."""
    return {key: value for key, value in labels.items() if value}


def relabel(current: Labels, wanted: Labels, paths: Sequence[str]) -> Labels:
    """Labels after an update with a mask; without one all are replaced."""
    changed = dict(current)
    for path in paths or ("labels",):
        if path == "labels":
            changed = dict(wanted)
        elif path.startswith("labels."):
            key = path.removeprefix("labels.")
            changed[key] = wanted.get(key, "")
        else:
            raise Refused("INVALID_ARGUMENT")
    return kept(changed)


def _row_shape(row: Row) -> tuple[object, ...]:
    return (
        row.data or b"",
        row.data is None,
        row.total,
        row.expected,
        row.unleased,
        row.stream is None,
        row.live_total,
    )


def get(objects: Mapping[str, T], key: str) -> T:
    if key not in objects:
        raise Refused("NOT_FOUND")
    return objects[key]
