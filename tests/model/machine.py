"""Random calls, each made to the daemon and to the model alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model import together
from tests.model.drawing import (
    BLOB,
    CALLS_AT_ONCE,
    CONTAINERS,
    GC,
    IMAGE_LABELS,
    IMAGES,
    KEYS,
    LEASE,
    LEASE_LABELS,
    LEASES,
    MASKS,
    NAME,
    OBJECT_LABELS,
    REFERENCE,
    REFS,
    RESOURCES,
    ROOM,
    SNAPSHOT_LABELS,
    SNAPSHOTTER,
    SYNC,
    TIMES,
)
from tests.model.model import SHAREABLE
from tests.model.walk import Walk


class StorageMachine(Walk):
    """Two namespaces, a few names of each kind, and up to three writers that stay open."""

    @rule()
    def collect(self) -> None:
        self._collect()

    @precondition(lambda self: len(self.streams) < 3)
    @rule(
        room=ROOM,
        lease=LEASE,
        ref=st.sampled_from(REFS),
        blob=BLOB,
        named=st.booleans(),
        sized=st.booleans(),
    )
    def open(self, room: int, lease: str, ref: str, blob: int, named: bool, sized: bool) -> None:
        self._open(self.where(room, lease), ref, blob, named=named, sized=sized)

    @precondition(lambda self: self.streams)
    @rule(
        index=st.integers(0, 2),
        blob=BLOB,
        start=st.sampled_from(["end", "end", "end", "zero", "beyond"]),
        much=st.sampled_from(["rest", "rest", "some", "nothing"]),
        commit=st.booleans(),
        labels=OBJECT_LABELS,
        wrong=st.sampled_from(["", "", "", "size", "digest"]),
        named=st.sampled_from(["", "sha256", "sha512"]),
    )
    def send(
        self,
        index: int,
        blob: int,
        start: str,
        much: str,
        commit: bool,
        labels: Any,
        wrong: str,
        named: str,
    ) -> None:
        self._send(index % len(self.streams), blob, start, much, commit, self.labels(labels), wrong, named)

    @precondition(lambda self: len(self.streams) < 3)
    @rule(
        room=ROOM,
        lease=LEASE,
        ref=st.sampled_from(REFS),
        blob=BLOB,
        wrong=st.sampled_from(["", "size", "digest"]),
        end=st.sampled_from(["commit", "commit", "leave", "close"]),
    )
    def upload(self, room: int, lease: str, ref: str, blob: int, wrong: str, end: str) -> None:
        """A blob in pieces, begun anew or where the last writer left it; perhaps not to its end."""
        if not self._open(self.where(room, lease), ref, blob, named=False, sized=False):
            return
        index = len(self.streams) - 1
        self._send(index, blob, "end", "some", False, {})
        if end == "commit" and len(self.streams) > index:
            self._send(index, blob, "end", "rest", True, {"plain": "1"}, wrong, "sha256")
        elif end == "close" and len(self.streams) > index:
            self._close(index)

    @precondition(lambda self: self.streams)
    @rule(index=st.integers(0, 2))
    def close(self, index: int) -> None:
        self._close(index % len(self.streams))

    @rule(
        room=ROOM,
        lease=LEASE,
        blob=BLOB,
        labels=OBJECT_LABELS,
        named=st.booleans(),
        also=st.booleans(),
    )
    def put(self, room: int, lease: str, blob: int, labels: Any, named: bool, also: bool) -> None:
        """A blob at once; with ``also`` one more, that the first refers to."""
        if also:
            self._put(self.where(room, lease), 0, {}, named=named)
            labels = [*(each for each in labels if each[0] != REFERENCE), (REFERENCE, ("blob", 0))]
        self._put(self.where(room, lease), blob, self.labels(labels), named=named)

    @rule(room=ROOM, blob=BLOB, name=st.sampled_from(IMAGES), labels=IMAGE_LABELS, layers=st.booleans())
    def pull(self, room: int, blob: int, name: str, labels: Any, layers: bool) -> None:
        """What a pull does: blobs that refer to one another, layers, an image; all under one lease."""
        where = self.where(room, "pull")
        self.both("create_lease", where, "pull", {})
        self._put(where, 5, {f"{GC}ref.snapshot.{SNAPSHOTTER}": KEYS[1]}, named=True)
        self._put(where, 4, {}, named=True)
        # The second label is none that keeps anything.
        manifest = {REFERENCE: self.digest(5), f"{GC}ref.contents": self.digest(4)}
        self._put(where, blob, manifest, named=False)
        if layers:
            for parent, key in itertools.pairwise(("", *KEYS[:2])):
                if self.both("prepare", where, "making", parent, {}, view=False):
                    self.both("commit", where, key, "making", {})
        self.both("create_image", where, name, self._image(blob, labels, ""))
        self.both("delete_lease", where, "pull", sync=True)

    @rule(room=ROOM, lease=LEASE, blob=BLOB, labels=OBJECT_LABELS, mask=MASKS)
    def label(self, room: int, lease: str, blob: int, labels: Any, mask: str) -> None:
        paths = self.paths(mask, labels)
        self.both("label", self.where(room, lease), self.digest(blob), self.labels(labels), paths)

    @rule(
        room=ROOM,
        blob=BLOB,
        name=st.sampled_from(IMAGES),
        key=st.sampled_from(KEYS),
        offset=st.sampled_from([0, 0, 5, 99]),
        size=st.sampled_from([0, 0, 4]),
    )
    def look(self, room: int, blob: int, name: str, key: str, offset: int, size: int) -> None:
        where, digest = self.where(room), self.digest(blob)
        self.both("info", where, digest)
        self.both("read", where, digest, offset, size)
        self.both("stat", where, key)
        self.both("mounts", where, key)
        root, plain = f"{GC}root", "plain"

        def chosen(method: str, filters: Sequence[str], wanted: Callable[[str, Any], bool]) -> None:
            found: Mapping[str, Any] = getattr(self.model, method)(where)
            self.compare(
                f"{method} filtered",
                lambda: {name: each for name, each in found.items() if wanted(name, each)},
                lambda: getattr(self.client, method)(where, filters),
            )

        chosen("contents", [f'labels."{root}",size!=x'], lambda _, each: root in each[1])
        chosen(
            "contents",
            [f"digest=={digest}", "labels.plain==1"],
            lambda name, each: name == digest or each[1].get(plain) == "1",
        )
        chosen(
            "images",
            [f"name!={name},target.digest=={digest}"],
            lambda each, image: each != name and image.target.digest == digest,
        )
        chosen("images", ["labels.plain~=|^[12]$|"], lambda _, image: plain in image.labels)
        chosen(
            "snapshots",
            [f"kind==committed,parent=={key}", f"name=={key}"],
            lambda each, info: each == key or (info.kind == "committed" and info.parent == key),
        )
        chosen("leases", ["labels.other==1"], lambda _, labels: labels.get("other") == "1")
        chosen("ingests", [f"ref=={REFS[0]}"], lambda ref, _: ref == REFS[0])

    @rule(
        room=ROOM,
        lease=LEASE,
        name=st.sampled_from(IMAGES),
        blob=BLOB,
        labels=IMAGE_LABELS,
        note=st.sampled_from(["", "x"]),
    )
    def create_image(self, room: int, lease: str, name: str, blob: int, labels: Any, note: str) -> None:
        self.both("create_image", self.where(room, lease), name, self._image(blob, labels, note))

    @rule(
        room=ROOM,
        lease=LEASE,
        name=st.sampled_from(IMAGES),
        blob=BLOB,
        labels=IMAGE_LABELS,
        note=st.sampled_from(["", "y"]),
        mask=st.sampled_from(
            [
                "",
                "target",
                "labels",
                "keys",
                "annotations",
                "annotations.note",
                "name",
                "target annotations.b",
            ]
        ),
    )
    def update_image(
        self, room: int, lease: str, name: str, blob: int, labels: Any, note: str, mask: str
    ) -> None:
        paths = self.paths("keys", labels) if mask == "keys" else mask.split()
        self.both("update_image", self.where(room, lease), name, self._image(blob, labels, note), paths)

    @rule(room=ROOM, lease=LEASE, name=st.sampled_from(IMAGES), sync=SYNC, blob=st.none() | BLOB)
    def delete_image(self, room: int, lease: str, name: str, sync: bool, blob: int | None) -> None:
        digest = "" if blob is None else self.digest(blob)
        self.both("delete_image", self.where(room, lease), name, sync=sync, digest=digest)

    @rule(
        room=ROOM,
        id=st.sampled_from(LEASES),
        labels=LEASE_LABELS,
        holding=st.sampled_from(["", "blobs", "layers", "image"]),
    )
    def create_lease(self, room: int, id: str, labels: Any, holding: str) -> None:
        """A lease; often one that holds the top of something at once."""
        where = self.where(room, id)
        self.both("create_lease", where, id, self.labels(labels))
        if holding == "blobs":
            self._put(self.where(room), 0, {}, named=True)
            self._put(where, 1, {REFERENCE: self.digest(0)}, named=True)
        elif holding == "layers" and self.both("prepare", self.where(room), "making", "", {}, view=False):
            self.both("commit", self.where(room), KEYS[0], "making", {})
            self.both("prepare", where, KEYS[1], KEYS[0], {}, view=True)
        elif holding == "image":
            expired = [(f"{GC}expire", TIMES[0]), (f"{GC}ref.content", ("blob", 1))]
            self._put(self.where(room), 1, {}, named=True)
            self.both("create_image", where, IMAGES[0], self._image(1, expired, ""))

    @rule(room=ROOM, id=st.sampled_from(LEASES), sync=SYNC)
    def delete_lease(self, room: int, id: str, sync: bool) -> None:
        self.both("delete_lease", self.where(room), id, sync=sync)

    @rule(room=ROOM, id=st.sampled_from(LEASES), resource=RESOURCES)
    def add_resource(self, room: int, id: str, resource: Any) -> None:
        self.both("add_resource", self.where(room), id, resource[0], self.value(resource[1]))

    @rule(room=ROOM, id=st.sampled_from(LEASES), resource=RESOURCES)
    def delete_resource(self, room: int, id: str, resource: Any) -> None:
        self.both("delete_resource", self.where(room), id, resource[0], self.value(resource[1]))

    @rule(
        room=ROOM,
        lease=LEASE,
        key=st.sampled_from(KEYS),
        parent=st.sampled_from(["", "", *KEYS]),
        labels=SNAPSHOT_LABELS,
        view=st.booleans(),
    )
    def prepare(self, room: int, lease: str, key: str, parent: str, labels: Any, view: bool) -> None:
        self.both("prepare", self.where(room, lease), key, parent, self.labels(labels), view=view)

    @rule(
        room=ROOM,
        lease=LEASE,
        name=st.sampled_from(KEYS),
        key=st.sampled_from(KEYS),
        labels=OBJECT_LABELS,
    )
    def commit(self, room: int, lease: str, name: str, key: str, labels: Any) -> None:
        self.both("commit", self.where(room, lease), name, key, self.labels(labels))

    @rule(
        room=ROOM,
        lease=LEASE,
        name=st.sampled_from(KEYS),
        parent=st.sampled_from(["", *KEYS]),
        labels=OBJECT_LABELS,
    )
    def add_layer(self, room: int, lease: str, name: str, parent: str, labels: Any) -> None:
        where = self.where(room, lease)
        if self.both("prepare", where, "making", parent, {}, view=False):
            self.both("commit", where, name, "making", self.labels(labels))

    @rule(room=ROOM, key=st.sampled_from(KEYS), labels=OBJECT_LABELS, mask=MASKS)
    def label_snapshot(self, room: int, key: str, labels: Any, mask: str) -> None:
        paths = self.paths(mask, labels)
        self.both("label_snapshot", self.where(room), key, self.labels(labels), paths)

    @rule(
        room=ROOM,
        id=st.sampled_from(CONTAINERS),
        key=st.sampled_from(["", *KEYS]),
        labels=OBJECT_LABELS,
    )
    def create_container(self, room: int, id: str, key: str, labels: Any) -> None:
        self.both("create_container", self.where(room), id, key, self.labels(labels))

    @rule(room=ROOM, shareable=st.sampled_from(["true", "true", "false", ""]), there=st.booleans())
    def share(self, room: int, shareable: str, there: bool) -> None:
        name, labels = self.where(room).namespace, {SHAREABLE: shareable, "plain": "1"}
        if there:
            self.both("update_namespace", name, labels, [f"labels.{SHAREABLE}"])
        else:
            self.both("create_namespace", name, labels)

    @rule(room=ROOM, lease=LEASE, name=NAME)
    def remove(self, room: int, lease: str, name: Any) -> None:
        where = self.where(room, lease)
        if isinstance(name, tuple):
            self.both("delete_content", where, self.value(name))
        elif name in REFS:
            self.both("abort", where, name)
        elif name in KEYS:
            self.both("remove_snapshot", where, name)
        elif name in CONTAINERS:
            self.both("delete_container", where, name)
        else:
            self._delete_namespace(where.namespace)
            self.compare("namespaces", self.model.namespaces, self._namespaces)

    # --- At once -------------------------------------------------------------------------------------

    @rule(calls=CALLS_AT_ONCE)
    def together(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Several calls at the same time: what came of it is what came of some order of them."""
        self._together([self._at_once(number, *call) for number, call in enumerate(calls)])

    def _at_once(self, number: int, method: str, drawn: dict[str, Any]) -> together.Call:
        where = self.where(drawn["room"], drawn.get("lease", ""))
        digest = self.digest(drawn["blob"]) if "blob" in drawn else ""
        labels = self.labels(drawn.get("labels", []))
        match method:
            case "put":
                data = self.data(drawn["blob"])
                return together.Put(
                    where, f"at-once-{number}", data, labels, digest if drawn["named"] else ""
                )
            case "collect":
                return together.Collect()
            case "label":
                args = (where, digest, labels, self.paths(drawn["mask"], drawn["labels"]))
            case "delete_content":
                args = (where, digest)
            case "abort":
                args = (where, drawn["ref"])
            case "create_image":
                args = (where, drawn["name"], self._image(drawn["blob"], drawn["labels"], ""))
            case "update_image":
                image = self._image(drawn["blob"], drawn["labels"], "y")
                args = (where, drawn["name"], image, ["target", *self.paths("keys", drawn["labels"])])
            case "delete_image":
                return together.Call(method, (where, drawn["name"]), {"sync": False})
            case "create_lease":
                args = (where, drawn["id"], labels)
            case "delete_lease":
                return together.Call(method, (where, drawn["id"]), {"sync": False})
            case "add_resource" | "delete_resource":
                args = (where, drawn["id"], drawn["resource"][0], self.value(drawn["resource"][1]))
            case "prepare":
                return together.Call(method, (where, drawn["key"], drawn["parent"], labels), {"view": False})
            case "commit":
                args = (where, drawn["name"], drawn["key"], labels)
            case "remove_snapshot":
                args = (where, drawn["key"])
            case "create_container":
                args = (where, drawn["id"], drawn["key"], labels)
            case "delete_container":
                args = (where, drawn["id"])
            case _:
                args = (where.namespace,)
        return together.Call(method, args)
