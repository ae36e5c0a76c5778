"""What the storage should do, in memory: containerd's rules written down a second time, as plainly as can be.

Each method is named and called as its sibling in the client, and returns or raises what that should.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tests.model.client import Where
from tests.model.contents import SHAREABLE, Contents, stream_digest
from tests.model.rooms import Lease, Room, Stream, digest_of, get, kept, relabel
from tests.model.values import Image, Labels, Refused, Snapshot

__all__ = ["SHAREABLE", "TARGET", "Model", "Stream", "digest_of", "stream_digest"]

TARGET = "containerd.io/snapshot.ref"
EXPIRE = "containerd.io/gc.expire"


class Model(Contents):
    """All of it."""

    # --- Images --------------------------------------------------------------------------------------

    def images(self, where: Where) -> dict[str, Image]:
        return dict(self._seen(where).images)

    def create_image(self, where: Where, name: str, image: Image) -> Image:
        lease = self._lease(where) if EXPIRE in image.labels else None
        if name in self._seen(where).images:
            raise Refused("ALREADY_EXISTS")
        return self._put_image(where, name, image, lease)

    def update_image(self, where: Where, name: str, image: Image, paths: Sequence[str]) -> Image:
        changed = get(self._seen(where).images, name)
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
        image = get(self._seen(where).images, name)
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
        return set(get(self._seen(where).leases, id).resources)

    def create_lease(self, where: Where, id: str, labels: Labels) -> Labels:
        if id in self._seen(where).leases:
            raise Refused("ALREADY_EXISTS")
        self._made(where).leases[id] = Lease(kept(labels))
        return kept(labels)

    def delete_lease(self, where: Where, id: str, *, sync: bool) -> None:
        get(self._seen(where).leases, id)
        del self._seen(where).leases[id]
        if sync:
            self.collect()

    def add_resource(self, where: Where, id: str, type: str, resource: str) -> None:
        lease = get(self._seen(where).leases, id)
        self._check_type(type)
        lease.resources.add((type, resource))

    def delete_resource(self, where: Where, id: str, type: str, resource: str) -> None:
        lease = get(self._seen(where).leases, id)
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
        return get(self._seen(where).snapshots, key)

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
        if parent and get(there, parent).kind != "committed":
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
        active = get(there, key)
        if active.kind != "active":
            raise Refused("FAILED_PRECONDITION")
        if lease is not None:
            lease.resources.add((self._snapshots, name))
        del there[key]
        there[name] = Snapshot("committed", active.parent, kept(labels))
        self._let_go(where, self._snapshots, key)

    def remove_snapshot(self, where: Where, key: str) -> None:
        there = self._seen(where).snapshots
        get(there, key)
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
        get(self._seen(where).containers, id)
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
