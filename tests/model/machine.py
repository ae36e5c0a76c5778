"""Random calls, made to the daemon and to the model alike, and what both say compared."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from orlop_protos.containerd.services.content.v1 import content_pb2
from tests.model.client import Client, Where, Writer
from tests.model.model import SHAREABLE, TARGET, Model, Stream, digest_of, stream_digest
from tests.model.values import Image, Labels, Refused, Target

SNAPSHOTTER = "overlayfs"
SWEEPER = Where("sweeper")
REFERENCE = "containerd.io/gc.ref.content.l.0"

BLOBS = range(6)
LEASES = ("l0", "l1", "l2")
IMAGES = ("i0", "i1", "i2")
KEYS = ("s0", "s1", "s2", "s3", "s4")
REFS = ("r0", "r1", "r2")
CONTAINERS = ("k0", "k1")

GC = "containerd.io/gc."
TIMES = ("2020-01-01T00:00:00Z", "2020-02-01T12:00:00.25+02:00", "2999-01-01T00:00:00Z", "yesterday")

_numbers = itertools.count()


class Difference(AssertionError):
    """The daemon and the model do not agree."""


@dataclass(frozen=True)
class Rig:
    """A daemon that collects only when it is told to, and what the model has to know of it."""

    client: Client
    root: Path
    sharing: bool

    def collect(self) -> None:
        """Have the daemon collect, and wait."""
        lease = f"sweep-{secrets.token_hex(4)}"
        self.client.create_lease(SWEEPER, lease, {})
        self.client.delete_lease(SWEEPER, lease, sync=True)

    def blobs(self) -> set[str]:
        """The digests of the blobs on the disk."""
        return {f"{path.parent.name}:{path.name}" for path in self.root.glob("content/content/blobs/*/*")}

    def ingests(self, prefix: str) -> int:
        """How many ingests on the disk belong to namespaces that begin with ``prefix``."""
        states = [json.loads(path.read_text()) for path in self.root.glob("content/content/ingest/*/state")]
        return sum(state["ref"].startswith(prefix) for state in states)

    def snapshots(self) -> int:
        """How many folders the snapshotter has."""
        return len(list(self.root.glob("snapshotter/overlayfs/snapshots/*")))


def _labels(*kinds: tuple[str, st.SearchStrategy[Any]], most: int = 3) -> st.SearchStrategy[Any]:
    pair = st.one_of(*(st.tuples(st.just(key), value) for key, value in kinds))
    return st.lists(pair, max_size=most, unique_by=lambda each: each[0])


_blobs = st.sampled_from(BLOBS)
_digests = st.tuples(st.just("blob"), _blobs)
_plain = (("plain", st.sampled_from(["1", "2", ""])), ("other", st.just("1")))
OBJECT_LABELS = _labels(
    (f"{GC}root", st.just("1")),
    (REFERENCE, _digests),
    (f"{GC}ref.content", _digests),
    (f"{GC}ref.contents", _digests),
    (f"{GC}ref.image/x", st.sampled_from(IMAGES)),
    (f"{GC}ref.snapshot.{SNAPSHOTTER}", st.sampled_from(KEYS)),
    (f"{GC}ref.snapshot.{SNAPSHOTTER}/x", st.sampled_from(KEYS)),
    (f"{GC}bref.content.a", _digests),
    (f"{GC}bref.image", st.sampled_from(IMAGES)),
    (f"{GC}bref.snapshot.{SNAPSHOTTER}", st.sampled_from(KEYS)),
    (f"{GC}bref.container", st.sampled_from(CONTAINERS)),
    *_plain,
)
IMAGE_LABELS = st.one_of(OBJECT_LABELS, _labels((f"{GC}expire", st.sampled_from(TIMES)), *_plain))
LEASE_LABELS = _labels((f"{GC}expire", st.sampled_from(TIMES)), (f"{GC}flat", st.just("1")), *_plain, most=2)
SNAPSHOT_LABELS = st.one_of(OBJECT_LABELS, _labels((TARGET, st.sampled_from(KEYS)), *_plain))
MASKS = st.sampled_from(["", "", "labels", "keys", "keys", "keys", "size"])

_rooms = st.sampled_from([0, 0, 1])
_headers = st.sampled_from(["", "", "", *LEASES])
_syncs = st.booleans()
_names = st.one_of(
    _digests, st.sampled_from(KEYS), st.sampled_from([*REFS, *CONTAINERS]), st.just("the namespace")
)
RESOURCES = st.one_of(
    st.tuples(st.just("content"), _digests),
    st.tuples(st.just("images"), st.sampled_from(IMAGES)),
    st.tuples(st.just("ingests"), st.sampled_from(REFS)),
    st.tuples(st.just(f"snapshots/{SNAPSHOTTER}"), st.sampled_from(KEYS)),
    st.tuples(st.sampled_from(["volumes", "snapshots", "images/x"]), st.just("r")),
)


class StorageMachine(RuleBasedStateMachine):
    """Two namespaces, a few names of each kind, and up to three writers that stay open."""

    rig: Rig
    statistics: dict[str, int]
    difference: type[BaseException] = Difference

    def __init__(self) -> None:
        super().__init__()
        self.salt = f"m{next(_numbers)}{secrets.token_hex(3)}"
        self.model = Model(SNAPSHOTTER, sharing=self.rig.sharing)
        self.client = self.rig.client
        self.streams: list[tuple[Stream, Writer]] = []
        self.agreed = True
        self.rig.collect()
        self.snapshots_before = self.rig.snapshots()

    # --- Names ---------------------------------------------------------------------------------------

    def where(self, room: int, lease: str = "") -> Where:
        return Where(f"{self.salt}{'ab'[room]}", lease)

    def data(self, blob: int) -> bytes:
        return f"{self.salt} {blob}".encode() + b"." * (3 * blob)

    def digest(self, blob: int, algorithm: str = "sha256") -> str:
        return digest_of(self.data(blob), algorithm)

    def value(self, drawn: Any) -> str:
        return self.digest(drawn[1]) if isinstance(drawn, tuple) else drawn

    def labels(self, drawn: Sequence[tuple[str, Any]]) -> Labels:
        return {key: self.value(value) for key, value in drawn}

    @staticmethod
    def paths(mask: str, drawn: Sequence[tuple[str, Any]]) -> list[str]:
        if mask == "keys":
            return [f"labels.{key}" for key, _ in drawn] or ["labels.plain"]
        return [mask] if mask else []

    # --- Comparing -----------------------------------------------------------------------------------

    def differ(self, text: str) -> BaseException:
        self.agreed = False
        return self.difference(text)

    def compare(self, what: str, expected: Callable[[], Any], actual: Callable[[], Any]) -> Any:
        """What both gave; None if both refused."""
        self.statistics[what] = self.statistics.get(what, 0) + 1
        wanted, found = _outcome(expected), _outcome(actual)
        refused = isinstance(wanted, Refused) and isinstance(found, Refused)
        if (wanted.code != found.code) if refused else (wanted != found):
            raise self.differ(f"{what}: the model says {wanted!r}, the daemon {found!r}")
        return None if refused else wanted

    def both(self, method: str, *args: Any, **options: Any) -> Any:
        """Call the model and the daemon."""
        result = self.compare(
            f"{method}{args}{options or ''}" if not self.agreed else method,
            lambda: getattr(self.model, method)(*args, **options),
            lambda: getattr(self.client, method)(*args, **options),
        )
        if options.get("sync") and result is None:
            self.check_all()
        return result

    def check_all(self) -> None:
        """Compare everything that can be seen, and the bytes on the disk."""
        for room in (0, 1):
            where = self.where(room)
            for method in ("contents", "ingests", "images", "leases", "snapshots", "containers"):
                self.both(method, where)
            for lease in self.model.leases(where):
                self.both("resources", where, lease)

    def check_disk(self) -> None:
        """Compare what lies on the disk; right after a collection."""
        ours = {self.digest(blob, name) for blob in BLOBS for name in ("sha256", "sha512")}
        ours |= set(self.model.disk)
        self.compare("blobs on the disk", lambda: set(self.model.disk), lambda: self.rig.blobs() & ours)
        self.compare(
            "ingests on the disk", lambda: self.model.ingest_count, lambda: self.rig.ingests(self.salt)
        )
        held = sum(len(self.model.snapshots(self.where(room))) for room in (0, 1))
        self.compare(
            "snapshots on the disk", lambda: held, lambda: self.rig.snapshots() - self.snapshots_before
        )

    @rule()
    def collect(self) -> None:
        self._collect()

    def _collect(self) -> None:
        self.model.collect()
        self.rig.collect()
        self.check_all()
        self.check_disk()

    # --- Writing -------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.streams) < 3)
    @rule(
        room=_rooms,
        lease=_headers,
        ref=st.sampled_from(REFS),
        blob=_blobs,
        named=st.booleans(),
        sized=st.booleans(),
    )
    def open(self, room: int, lease: str, ref: str, blob: int, named: bool, sized: bool) -> None:
        self._open(self.where(room, lease), ref, blob, named=named, sized=sized)

    def _open(self, where: Where, ref: str, blob: int, *, named: bool, sized: bool) -> bool:
        expected = self.digest(blob) if named else ""
        total = len(self.data(blob)) if sized else 0
        writer = self.client.writer(where)
        opened: list[Stream] = []

        def wanted() -> tuple[int, str]:
            stream = self.model.open(where, ref, total, expected)
            opened.append(stream)
            return stream.offset, stream_digest(stream)

        request = content_pb2.WriteContentRequest(
            action=content_pb2.STAT, ref=ref, total=total, expected=expected
        )
        if self.compare("open", wanted, lambda: writer.send(request)) is None:
            writer.close()
            return False
        self.streams.append((opened[0], writer))
        return True

    @precondition(lambda self: self.streams)
    @rule(
        index=st.integers(0, 2),
        blob=_blobs,
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

    def _send(
        self,
        index: int,
        blob: int,
        start: str,
        much: str,
        commit: bool,
        labels: Labels,
        wrong: str = "",
        named: str = "",
    ) -> None:
        stream, writer = self.streams[index]
        data = self.data(blob)
        offset = {"end": stream.offset, "zero": 0, "beyond": stream.offset + 7}[start]
        rest = data[offset:]
        piece = {"rest": rest, "some": rest[: len(rest) // 2], "nothing": b""}[much]
        expected = self.digest(blob, named) if commit and named else ""
        if wrong == "digest" and commit:
            expected = digest_of(f"{self.salt} wrong".encode())
        total = len(data) + 1 if wrong == "size" and commit else 0
        request = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT if commit else content_pb2.WRITE,
            offset=offset,
            data=piece,
            total=total,
            expected=expected,
            labels=labels,
        )
        answer = self.compare(
            "commit" if commit else "write",
            lambda: self.model.send(
                stream, offset, piece, commit=commit, total=total, expected=expected, labels=labels
            ),
            lambda: writer.send(request),
        )
        if answer is None or commit:
            self._close(index)
            # What was refused can still be looked at.
            self.both("status", stream.where, stream.ref)

    @precondition(lambda self: len(self.streams) < 3)
    @rule(
        room=_rooms,
        lease=_headers,
        ref=st.sampled_from(REFS),
        blob=_blobs,
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

    def _close(self, index: int) -> None:
        stream, writer = self.streams.pop(index)
        writer.close()
        self.model.close(stream)

    @precondition(lambda self: self.streams)
    @rule(index=st.integers(0, 2))
    def close(self, index: int) -> None:
        self._close(index % len(self.streams))

    @rule(
        room=_rooms,
        lease=_headers,
        blob=_blobs,
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

    def _put(self, where: Where, blob: int, labels: Labels, *, named: bool) -> None:
        if self._open(where, f"put-{len(self.streams)}", blob, named=named, sized=named):
            much = "nothing" if self.streams[-1][0].shared is not None else "rest"
            start = "end" if much == "nothing" else "zero"
            self._send(len(self.streams) - 1, blob, start, much, True, labels)

    @rule(room=_rooms, blob=_blobs, name=st.sampled_from(IMAGES), labels=IMAGE_LABELS, layers=st.booleans())
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

    # --- Content -------------------------------------------------------------------------------------

    @rule(room=_rooms, lease=_headers, blob=_blobs, labels=OBJECT_LABELS, mask=MASKS)
    def label(self, room: int, lease: str, blob: int, labels: Any, mask: str) -> None:
        paths = self.paths(mask, labels)
        self.both("label", self.where(room, lease), self.digest(blob), self.labels(labels), paths)

    @rule(
        room=_rooms,
        blob=_blobs,
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

    # --- Images --------------------------------------------------------------------------------------

    def _image(self, blob: int, labels: Any, note: str) -> Image:
        return Image(Target(self.digest(blob), 10, {"note": note, "b": str(blob)}), self.labels(labels))

    @rule(
        room=_rooms,
        lease=_headers,
        name=st.sampled_from(IMAGES),
        blob=_blobs,
        labels=IMAGE_LABELS,
        note=st.sampled_from(["", "x"]),
    )
    def create_image(self, room: int, lease: str, name: str, blob: int, labels: Any, note: str) -> None:
        self.both("create_image", self.where(room, lease), name, self._image(blob, labels, note))

    @rule(
        room=_rooms,
        lease=_headers,
        name=st.sampled_from(IMAGES),
        blob=_blobs,
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

    @rule(room=_rooms, lease=_headers, name=st.sampled_from(IMAGES), sync=_syncs, blob=st.none() | _blobs)
    def delete_image(self, room: int, lease: str, name: str, sync: bool, blob: int | None) -> None:
        digest = "" if blob is None else self.digest(blob)
        self.both("delete_image", self.where(room, lease), name, sync=sync, digest=digest)

    # --- Leases --------------------------------------------------------------------------------------

    @rule(
        room=_rooms,
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

    @rule(room=_rooms, id=st.sampled_from(LEASES), sync=_syncs)
    def delete_lease(self, room: int, id: str, sync: bool) -> None:
        self.both("delete_lease", self.where(room), id, sync=sync)

    @rule(room=_rooms, id=st.sampled_from(LEASES), resource=RESOURCES)
    def add_resource(self, room: int, id: str, resource: Any) -> None:
        self.both("add_resource", self.where(room), id, resource[0], self.value(resource[1]))

    @rule(room=_rooms, id=st.sampled_from(LEASES), resource=RESOURCES)
    def delete_resource(self, room: int, id: str, resource: Any) -> None:
        self.both("delete_resource", self.where(room), id, resource[0], self.value(resource[1]))

    # --- Snapshots -----------------------------------------------------------------------------------

    @rule(
        room=_rooms,
        lease=_headers,
        key=st.sampled_from(KEYS),
        parent=st.sampled_from(["", "", *KEYS]),
        labels=SNAPSHOT_LABELS,
        view=st.booleans(),
    )
    def prepare(self, room: int, lease: str, key: str, parent: str, labels: Any, view: bool) -> None:
        self.both("prepare", self.where(room, lease), key, parent, self.labels(labels), view=view)

    @rule(
        room=_rooms,
        lease=_headers,
        name=st.sampled_from(KEYS),
        key=st.sampled_from(KEYS),
        labels=OBJECT_LABELS,
    )
    def commit(self, room: int, lease: str, name: str, key: str, labels: Any) -> None:
        self.both("commit", self.where(room, lease), name, key, self.labels(labels))

    @rule(
        room=_rooms,
        lease=_headers,
        name=st.sampled_from(KEYS),
        parent=st.sampled_from(["", *KEYS]),
        labels=OBJECT_LABELS,
    )
    def add_layer(self, room: int, lease: str, name: str, parent: str, labels: Any) -> None:
        where = self.where(room, lease)
        if self.both("prepare", where, "making", parent, {}, view=False):
            self.both("commit", where, name, "making", self.labels(labels))

    @rule(room=_rooms, key=st.sampled_from(KEYS), labels=OBJECT_LABELS, mask=MASKS)
    def label_snapshot(self, room: int, key: str, labels: Any, mask: str) -> None:
        paths = self.paths(mask, labels)
        self.both("label_snapshot", self.where(room), key, self.labels(labels), paths)

    # --- Containers and namespaces -------------------------------------------------------------------

    @rule(
        room=_rooms,
        id=st.sampled_from(CONTAINERS),
        key=st.sampled_from(["", *KEYS]),
        labels=OBJECT_LABELS,
    )
    def create_container(self, room: int, id: str, key: str, labels: Any) -> None:
        self.both("create_container", self.where(room), id, key, self.labels(labels))

    @rule(room=_rooms, shareable=st.sampled_from(["true", "true", "false", ""]), there=st.booleans())
    def share(self, room: int, shareable: str, there: bool) -> None:
        name, labels = self.where(room).namespace, {SHAREABLE: shareable, "plain": "1"}
        if there:
            self.both("update_namespace", name, labels, [f"labels.{SHAREABLE}"])
        else:
            self.both("create_namespace", name, labels)

    def _delete_namespace(self, name: str) -> None:
        held = self.model.holds(name)
        said: list[str] = []

        def delete() -> None:
            try:
                self.client.delete_namespace(name)
            except Refused as error:
                said.append(error.message)
                raise

        self.compare("delete_namespace", lambda: self.model.delete_namespace(name), delete)
        if held and not all(f" {word}" in said[0] for word in held):
            raise self.differ(f"the refusal to delete a namespace names not all of {held}: {said[0]}")

    def _namespaces(self) -> dict[str, Labels]:
        return {n: labels for n, labels in self.client.namespaces().items() if n.startswith(self.salt)}

    @rule(room=_rooms, lease=_headers, name=_names)
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

    # --- The end -------------------------------------------------------------------------------------

    def teardown(self) -> None:
        while self.streams:
            self._close(0)
        if not self.agreed:
            return
        self._collect()
        for room in (0, 1):
            self._empty(self.where(room))
        self._collect()
        self.compare("bytes left at the end", dict, lambda: self.model.disk)

    def _empty(self, where: Where) -> None:
        for lease in self.model.leases(where):
            self.both("delete_lease", where, lease, sync=False)
        for image in self.model.images(where):
            self.both("delete_image", where, image, sync=False)
        for container in self.model.containers(where):
            self.both("delete_container", where, container)
        for digest in self.model.contents(where):
            self.both("delete_content", where, digest)
        while keys := list(self.model.snapshots(where)):
            for key in keys:
                with suppress(KeyError):
                    self.both("remove_snapshot", where, key)
        if where.namespace in self.model.rooms:
            self._delete_namespace(where.namespace)


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Refused as refused:
        return refused
