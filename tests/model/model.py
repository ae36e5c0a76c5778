"""What the storage should do, in memory: containerd's rules written down a second time, as plainly as can be.

Each method is named and called as its sibling in the client, and returns or raises what that should.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tests.model import marking
from tests.model.client import Where
from tests.model.values import Image, Ingest, Labels, Refused, Snapshot

T = TypeVar("T")

SHAREABLE = "containerd.io/namespace.shareable"
TARGET = "containerd.io/snapshot.ref"
EXPIRE = "containerd.io/gc.expire"
FLAT = "containerd.io/gc.flat"


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


class Model:
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
        return _get(self._seen(where).leases, where.lease)

    def _let_go(self, where: Where, type: str, id: str) -> None:
        lease = self._seen(where).leases.get(where.lease)
        if lease is not None:
            lease.resources.discard((type, id))

    @property
    def _snapshots(self) -> str:
        return f"snapshots/{self.snapshotter}"

    # --- Content -------------------------------------------------------------------------------------

    def contents(self, where: Where) -> dict[str, tuple[int, Labels]]:
        return dict(self._seen(where).contents)

    def info(self, where: Where, digest: str) -> tuple[int, Labels]:
        return _get(self._seen(where).contents, digest)

    def read(self, where: Where, digest: str, offset: int, size: int) -> bytes:
        self.info(where, digest)
        data = self.disk[digest]
        if offset > len(data):
            raise Refused("OUT_OF_RANGE")
        return data[offset : offset + size] if size else data[offset:]

    def label(self, where: Where, digest: str, labels: Labels, paths: Sequence[str]) -> Labels:
        size, current = self.info(where, digest)
        changed = relabel(current, labels, paths)
        self._seen(where).contents[digest] = (size, changed)
        return changed

    def delete_content(self, where: Where, digest: str) -> None:
        self.info(where, digest)
        del self._seen(where).contents[digest]
        self._let_go(where, "content", digest)

    # --- Ingests -------------------------------------------------------------------------------------

    def ingests(self, where: Where) -> dict[str, Ingest]:
        rows = self._seen(where).ingests
        return {ref: _status(row) for ref, row in rows.items() if row.data is not None}

    def status(self, where: Where, ref: str) -> Ingest:
        return _get(self.ingests(where), ref)

    def abort(self, where: Where, ref: str) -> None:
        row = _get(self._seen(where).ingests, ref)
        del self._seen(where).ingests[ref]
        self._take(row)
        self._let_go(where, "ingests", ref)

    def open(self, where: Where, ref: str, total: int, expected: str) -> Stream:
        """The first message of a Write."""
        room = self._seen(where)
        if expected and expected in room.contents:
            if lease := self._lease(where):
                lease.resources.add(("content", expected))
            raise Refused("ALREADY_EXISTS")
        shared = self._shared(expected, total)
        lease = self._lease(where)
        row = room.ingests.get(ref)
        if shared is None and row is not None and row.stream is not None:
            raise Refused("UNAVAILABLE")
        if row is None:
            row = self._made(where).ingests[ref] = Row()
        if lease is None:
            row.unleased = True
        else:
            lease.resources.add(("ingests", ref))
        stream = Stream(where, ref, row, shared, total, expected)
        if shared is not None:
            row.expected = expected
        else:
            self._attach(stream, total)
        return stream

    def _shared(self, digest: str, total: int) -> bytes | None:
        data = self.disk.get(digest)
        if data is None or total not in {0, len(data)}:
            return None
        shareable = any(
            digest in room.contents and room.labels.get(SHAREABLE) == "true" for room in self.rooms.values()
        )
        return data if self._sharing or shareable else None

    @staticmethod
    def _attach(stream: Stream, total: int) -> None:
        row = stream.row
        if row.data is None:
            row.data, row.total = b"", total
        row.live_total = row.total or total
        row.stream = stream
        stream.shared = None

    def close(self, stream: Stream) -> None:
        """The end of a Write."""
        if stream.row.stream is stream:
            stream.row.stream = None

    def send(
        self,
        stream: Stream,
        offset: int,
        data: bytes,
        *,
        commit: bool,
        total: int,
        expected: str,
        labels: Labels,
    ) -> tuple[int, str]:
        """A later message of a Write: offset and digest of the answer."""
        if expected:
            stream.expected = expected
            if expected in self._seen(stream.where).contents:
                if lease := self._lease(stream.where):
                    lease.resources.add(("content", expected))
                if stream.ref in self._seen(stream.where).ingests:
                    self.abort(stream.where, stream.ref)
                raise Refused("ALREADY_EXISTS")
        stream.total = total or stream.total
        if offset and offset != stream.offset:
            raise Refused("OUT_OF_RANGE")
        if not offset and stream.offset:
            self._own(stream, 0)
            stream.row.data = b""
        if data:
            self._own(stream, stream.offset)
            stream.row.data = (stream.row.data or b"") + data
        at = stream.offset
        if commit:
            return at, self._commit(stream, labels)
        if stream.gone_at is not None:
            raise Refused("ABORTED")
        return at, stream_digest(stream)

    def _own(self, stream: Stream, size: int) -> None:
        """What is written is one's own, no longer another's."""
        if stream.gone_at is not None:
            raise Refused("ABORTED")
        if stream.shared is None:
            return
        if not self._has_row(stream):
            raise Refused("ABORTED")
        if stream.row.stream is not None:
            raise Refused("UNAVAILABLE")
        copied = stream.shared[:size]
        self._attach(stream, 0)
        stream.row.data = copied

    def _has_row(self, stream: Stream) -> bool:
        return self._seen(stream.where).ingests.get(stream.ref) is stream.row

    def _commit(self, stream: Stream, labels: Labels) -> str:
        where = stream.where
        if stream.total and stream.total != stream.offset:
            raise Refused("FAILED_PRECONDITION")
        if stream.gone_at is not None:
            raise Refused("ABORTED")
        data = stream.row.data if stream.shared is None else stream.shared
        assert data is not None
        algorithm = stream.expected.partition(":")[0] or "sha256"
        actual = digest_of(data, algorithm)
        if stream.expected and stream.expected != actual:
            raise Refused("FAILED_PRECONDITION")
        if stream.shared is None:
            self.disk[actual] = data
            stream.row.data = stream.row.stream = None
        elif not self._has_row(stream) or actual not in self.disk:
            raise Refused("ABORTED")
        lease = self._lease(where)
        room = self._made(where)
        if self._has_row(stream):
            del room.ingests[stream.ref]
            # Bytes that were sent before, or are being sent by another, are nobody's now.
            self._orphans.append(stream.row)
        self._let_go(where, "ingests", stream.ref)
        if lease is not None:
            lease.resources.add(("content", actual))
        if actual in room.contents:
            raise Refused("ALREADY_EXISTS")
        room.contents[actual] = (len(data), kept(labels))
        return actual

    # --- Images --------------------------------------------------------------------------------------

    def images(self, where: Where) -> dict[str, Image]:
        return dict(self._seen(where).images)

    def create_image(self, where: Where, name: str, image: Image) -> Image:
        lease = self._lease(where) if EXPIRE in image.labels else None
        if name in self._seen(where).images:
            raise Refused("ALREADY_EXISTS")
        return self._put_image(where, name, image, lease)

    def update_image(self, where: Where, name: str, image: Image, paths: Sequence[str]) -> Image:
        changed = _get(self._seen(where).images, name)
        for path in paths or ("labels", "target"):
            if path == "target":
                changed = replace(changed, target=image.target)
            elif path.startswith("annotations"):
                notes = relabel(changed.target.annotations, image.target.annotations, [f"labels{path[11:]}"])
                changed = replace(changed, target=replace(changed.target, annotations=notes))
            else:
                changed = replace(changed, labels=relabel(changed.labels, image.labels, [path]))
        lease = self._lease(where) if EXPIRE in changed.labels else None
        return self._put_image(where, name, changed, lease)

    def _put_image(self, where: Where, name: str, image: Image, lease: Lease | None) -> Image:
        if lease is not None:
            lease.resources.add(("images", name))
        target = replace(image.target, annotations=kept(image.target.annotations))
        image = self._made(where).images[name] = Image(target, kept(image.labels))
        return image

    def delete_image(self, where: Where, name: str, *, sync: bool, digest: str = "") -> None:
        image = _get(self._seen(where).images, name)
        if digest and image.target.digest != digest:
            raise Refused("NOT_FOUND")
        del self._seen(where).images[name]
        self._let_go(where, "images", name)
        if sync:
            self.collect()

    # --- Leases --------------------------------------------------------------------------------------

    def leases(self, where: Where) -> dict[str, Labels]:
        return {name: lease.labels for name, lease in self._seen(where).leases.items()}

    def resources(self, where: Where, id: str) -> set[tuple[str, str]]:
        return set(_get(self._seen(where).leases, id).resources)

    def create_lease(self, where: Where, id: str, labels: Labels) -> Labels:
        if id in self._seen(where).leases:
            raise Refused("ALREADY_EXISTS")
        self._made(where).leases[id] = Lease(kept(labels))
        return kept(labels)

    def delete_lease(self, where: Where, id: str, *, sync: bool) -> None:
        _get(self._seen(where).leases, id)
        del self._seen(where).leases[id]
        if sync:
            self.collect()

    def add_resource(self, where: Where, id: str, type: str, resource: str) -> None:
        lease = _get(self._seen(where).leases, id)
        self._check_type(type)
        lease.resources.add((type, resource))

    def delete_resource(self, where: Where, id: str, type: str, resource: str) -> None:
        lease = _get(self._seen(where).leases, id)
        self._check_type(type)
        lease.resources.discard((type, resource))

    @staticmethod
    def _check_type(type: str) -> None:
        word, *rest = type.split("/")
        if word not in {"content", "ingests", "images", "snapshots"}:
            raise Refused("UNIMPLEMENTED")
        if len(rest) != (word == "snapshots"):
            raise Refused("INVALID_ARGUMENT")

    # --- Snapshots -----------------------------------------------------------------------------------

    def snapshots(self, where: Where) -> dict[str, Snapshot]:
        return dict(self._seen(where).snapshots)

    def stat(self, where: Where, key: str) -> Snapshot:
        return _get(self._seen(where).snapshots, key)

    def mounts(self, where: Where, key: str) -> bool:
        if self.stat(where, key).kind == "committed":
            raise Refused("FAILED_PRECONDITION")
        return True

    def prepare(self, where: Where, key: str, parent: str, labels: Labels, *, view: bool) -> bool:
        there = self._seen(where).snapshots
        for taken in (labels.get(TARGET, ""), key):
            if taken in there:
                if lease := self._lease(where):
                    lease.resources.add((self._snapshots, taken))
                raise Refused("ALREADY_EXISTS")
        if parent and _get(there, parent).kind != "committed":
            raise Refused("INVALID_ARGUMENT")
        if lease := self._lease(where):
            lease.resources.add((self._snapshots, key))
        self._made(where).snapshots[key] = Snapshot("view" if view else "active", parent, kept(labels))
        return True

    def commit(self, where: Where, name: str, key: str, labels: Labels) -> None:
        there = self._seen(where).snapshots
        lease = self._lease(where)
        if name in there:
            if lease is not None:
                lease.resources.add((self._snapshots, name))
            raise Refused("ALREADY_EXISTS")
        active = _get(there, key)
        if active.kind != "active":
            raise Refused("FAILED_PRECONDITION")
        if lease is not None:
            lease.resources.add((self._snapshots, name))
        del there[key]
        there[name] = Snapshot("committed", active.parent, kept(labels))
        self._let_go(where, self._snapshots, key)

    def remove_snapshot(self, where: Where, key: str) -> None:
        there = self._seen(where).snapshots
        _get(there, key)
        if any(snapshot.parent == key for snapshot in there.values()):
            raise Refused("FAILED_PRECONDITION")
        del there[key]
        self._let_go(where, self._snapshots, key)

    def label_snapshot(self, where: Where, key: str, labels: Labels, paths: Sequence[str]) -> Labels:
        current = self.stat(where, key)
        changed = relabel(current.labels, labels, paths)
        self._seen(where).snapshots[key] = replace(current, labels=changed)
        return changed

    # --- Containers ----------------------------------------------------------------------------------

    def containers(self, where: Where) -> dict[str, tuple[str, Labels]]:
        return dict(self._seen(where).containers)

    def create_container(self, where: Where, id: str, key: str, labels: Labels) -> None:
        if id in self._seen(where).containers:
            raise Refused("ALREADY_EXISTS")
        self._made(where).containers[id] = (key, kept(labels))

    def delete_container(self, where: Where, id: str) -> None:
        _get(self._seen(where).containers, id)
        del self._seen(where).containers[id]

    # --- Namespaces ----------------------------------------------------------------------------------

    def namespaces(self) -> dict[str, Labels]:
        return {name: room.labels for name, room in self.rooms.items()}

    def create_namespace(self, name: str, labels: Labels) -> None:
        if name in self.rooms:
            raise Refused("ALREADY_EXISTS")
        self.rooms[name] = Room(kept(labels))

    def update_namespace(self, name: str, labels: Labels, paths: Sequence[str]) -> Labels:
        room = self.rooms.setdefault(name, Room())
        room.labels = relabel(room.labels, labels, paths)
        return room.labels

    def delete_namespace(self, name: str) -> None:
        if name not in self.rooms:
            raise Refused("NOT_FOUND")
        if self.holds(name):
            raise Refused("FAILED_PRECONDITION")
        # Its ingests are nobody's now; what writes them may go on until the next collection.
        self._orphans += self.rooms.pop(name).ingests.values()

    def holds(self, name: str) -> list[str]:
        """What the refusal to delete a namespace has to name."""
        room = self._seen(name)
        kinds: Iterable[tuple[str, Mapping[str, object]]] = (
            ("images", room.images),
            ("blobs", room.contents),
            ("containers", room.containers),
            (f'snapshots on "{self.snapshotter}" snapshotter', room.snapshots),
        )
        return [word for word, objects in kinds if objects]


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


def stream_digest(stream: Stream) -> str:
    """The digest that an answer of a Write shows."""
    return digest_of(stream.shared if stream.shared is not None else stream.row.data or b"")


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


def _status(row: Row) -> Ingest:
    return Ingest(len(row.data or b""), row.live_total if row.stream is not None else row.total)


def _get(objects: Mapping[str, T], key: str) -> T:
    if key not in objects:
        raise Refused("NOT_FOUND")
    return objects[key]
