"""What a collection keeps, found by walking from the roots, as containerd's documentation tells it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.model.values import Labels

if TYPE_CHECKING:
    from tests.model.rooms import Room

GC = "containerd.io/gc."
Node = tuple[str, str, bool]
"""Kind, key, and whether a flat lease brought us here."""


def mark(room: Room, snapshotter: str) -> set[tuple[str, str]]:
    """Kind and key of everything in a namespace that something keeps."""
    back = list(_back_references(room, snapshotter))
    seen: set[Node] = set()
    front = list(_roots(room, snapshotter))
    while front:
        node = front.pop()
        if node in seen:
            continue
        seen.add(node)
        front += _references(room, node, snapshotter)
        front += [child for parent, child in back if parent == node]
    return {(kind, key) for kind, key, _ in seen}


def _expired(labels: Labels) -> bool:
    text = labels.get(f"{GC}expire", "")
    try:
        return bool(text) and datetime.fromisoformat(text) < datetime.now(UTC)
    except (ValueError, TypeError):
        return False


def _is_root(labels: Labels) -> bool:
    return any(label.startswith(f"{GC}root") for label in labels)


def _roots(room: Room, snapshotter: str) -> Iterator[Node]:
    for name, lease in room.leases.items():
        if _expired(lease.labels):
            continue
        yield "lease", name, False
        flat = bool(lease.labels.get(f"{GC}flat"))
        for word, key in lease.resources:
            if word == "content":
                yield "content", key, flat
            elif word == "images":
                yield "image", key, flat
            elif word == "ingests":
                yield "ingest", key, False
            elif word == f"snapshots/{snapshotter}":
                yield "snapshot", key, flat
    for name, image in room.images.items():
        if not _expired(image.labels):
            yield "image", name, False
    for ref, row in room.ingests.items():
        if row.unleased:
            yield "ingest", ref, False
    for digest, (_, labels) in room.contents.items():
        if _is_root(labels):
            yield "content", digest, False
    for key, snapshot in room.snapshots.items():
        if _is_root(snapshot.labels):
            yield "snapshot", key, False
    for key in room.containers:
        yield "container", key, False


def _labels(room: Room, kind: str, key: str) -> Labels:
    if kind == "content" and key in room.contents:
        return room.contents[key][1]
    if kind == "image" and key in room.images:
        return room.images[key].labels
    if kind == "snapshot" and key in room.snapshots:
        return room.snapshots[key].labels
    if kind == "container" and key in room.containers:
        return room.containers[key][1]
    return {}


def _targets(labels: Labels, prefix: str, kinds: tuple[str, ...], snapshotter: str) -> Iterator[Node]:
    for label, value in labels.items():
        if not label.startswith(prefix):
            continue
        word = label.removeprefix(prefix)
        if word.startswith("snapshot."):
            if word.removeprefix("snapshot.").partition("/")[0] == snapshotter:
                yield "snapshot", value, False
            continue
        for kind in kinds:
            if word == kind or word.startswith((f"{kind}.", f"{kind}/")):
                yield kind, value, False


def _references(room: Room, node: Node, snapshotter: str) -> Iterator[Node]:
    kind, key, flat = node
    if kind == "snapshot" and key in room.snapshots and (parent := room.snapshots[key].parent):
        yield "snapshot", parent, flat
    if kind == "image" and key in room.images:
        yield "content", room.images[key].target.digest, flat
    if kind == "ingest" and key in room.ingests and (expected := room.ingests[key].expected):
        yield "content", expected, False
    if kind == "container" and key in room.containers and (snapshot := room.containers[key][0]):
        yield "snapshot", snapshot, False
    if not flat:
        yield from _targets(_labels(room, kind, key), f"{GC}ref.", ("content", "image"), snapshotter)


def _back_references(room: Room, snapshotter: str) -> Iterator[tuple[Node, Node]]:
    kinds = ("content", "image", "container")
    for kind, keys in (
        ("content", room.contents),
        ("image", room.images),
        ("snapshot", room.snapshots),
        ("container", room.containers),
    ):
        for key in keys:
            for parent in _targets(_labels(room, kind, key), f"{GC}bref.", kinds, snapshotter):
                yield parent, (kind, key, False)
