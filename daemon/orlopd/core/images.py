"""Images: names for content."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound
from orlopd.plugin.values import Descriptor, Image, check_digest, now

from . import graph, leases
from .db import Connection, Database, dump_labels, from_micros, insert, load_labels, readable, to_micros
from .events import EventBus
from .filters import Adaptor, FieldPath, in_map, parse
from .gc import Collector
from .identifiers import check_labels, check_name, check_namespace, quoted
from .masks import select
from .namespaces import ensure
from .scope import Scope

PAGE = 500
_COLUMNS = "name, media_type, digest, size, annotations, labels, created_at, updated_at"


class Images:
    """Images of a scope's namespace. Of the target, media type, digest, size and annotations are kept."""

    def __init__(self, db: Database, events: EventBus, gc: Collector) -> None:
        self._db = db
        self._events = events
        self._gc = gc

    async def create(self, scope: Scope, image: Image, *, at: datetime | None = None) -> Image:
        """Make an image.

        :param at: the time to record as its creation; now when not given
        :raises AlreadyExists: there is one of this name
        :raises InvalidArgument: the name, the target or a label is malformed
        """
        check_namespace(scope.namespace)
        created = at or now()
        image = _normal(dataclasses.replace(image, created_at=created, updated_at=created))

        def change(conn: Connection) -> None:
            ensure(conn, scope.namespace)
            _lease(conn, scope, image)
            if _find(conn, scope.namespace, image.name) is not None:
                raise AlreadyExists(
                    f"image {quoted(image.name)}: already exists", resource=f"image {image.name}"
                )
            insert(conn, "images", {"namespace": scope.namespace, **_row(image)})
            _put_graph(conn, scope.namespace, image)

        await self._db.write(change)
        self._note_expiry(image)
        await self._emit(scope, "create", "Create", {"name": image.name, "labels": image.labels})
        return image

    async def get(self, scope: Scope, name: str) -> Image:
        """An image by its exact name. :raises NotFound: there is none"""
        return await self._db.read(lambda conn: _get(conn, scope.namespace, name))

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Image]:
        """Images by name, see :meth:`walk`."""
        return [image async for image in self.walk(scope, filters)]

    async def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[Image]:
        """Images by name, see :meth:`pages`."""
        async for images in self.pages(scope, filters):
            for image in images:
                yield image

    async def pages(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[Sequence[Image]]:
        """Images by name, some hundred at a time, so that memory stays flat.

        Filters know ``name``, ``target.digest``, ``target.mediatype``, ``labels.KEY``, ``annotations.KEY``.

        :raises InvalidArgument: a filter is malformed
        """
        wanted = parse(filters)
        after = ""
        while True:

            def page(conn: Connection, after: str = after) -> list[Image]:
                rows = conn.execute(
                    f"SELECT {_COLUMNS} FROM images WHERE namespace = ? AND name > ? ORDER BY name",
                    (scope.namespace, after),
                )
                return list(islice(readable(_image, rows), PAGE))

            images = await self._db.read(page)
            yield [image for image in images if wanted.match(_adapt(image))] if filters else images
            if len(images) < PAGE:
                return
            after = images[-1].name

    async def update(
        self, scope: Scope, image: Image, paths: Sequence[str] = (), *, at: datetime | None = None
    ) -> Image:
        """Change an image wholly, or what ``paths`` name.

        They are ``labels``, ``labels.KEY``, ``target``, ``annotations`` and ``annotations.KEY``.

        :raises NotFound: there is none of this name
        :raises InvalidArgument: a path is another, or what comes out is malformed
        """
        if not image.name:
            raise InvalidArgument("image name is required for update: invalid argument")

        def change(conn: Connection) -> tuple[Image, bool]:
            current = _get(conn, scope.namespace, image.name)
            changed = current
            # One after the other: "target" brings annotations too, which a path after it may change again.
            for path in paths or ("labels", "target"):
                fields = select(f"image {quoted(image.name)}", [path], _fields(changed), _fields(image))
                target: Descriptor = fields["target"]
                if path != "target":
                    target = dataclasses.replace(target, annotations=fields["annotations"])
                changed = dataclasses.replace(changed, target=target, labels=fields["labels"])
            changed = _normal(dataclasses.replace(changed, updated_at=at or now()))
            _lease(conn, scope, changed)
            row = _row(changed)
            names = ", ".join(f"{name} = ?" for name in row)
            conn.execute(
                f"UPDATE images SET {names} WHERE namespace = ? AND name = ?",
                (*row.values(), scope.namespace, image.name),
            )
            _put_graph(conn, scope.namespace, changed)
            return changed, current.target.digest != changed.target.digest

        changed, moved = await self._db.write(change)
        self._note_expiry(changed)
        if moved:
            # What it pointed at before may be garbage now.
            self._gc.schedule()
        await self._emit(scope, "update", "Update", {"name": changed.name, "labels": changed.labels})
        return changed

    async def delete(self, scope: Scope, name: str, *, sync: bool = False, digest: str = "") -> None:
        """Remove an image. With ``sync`` what it alone kept is gone when this returns.

        :param digest: remove it only if this is its target
        :raises NotFound: there is none of this name, or its target is another
        """

        def change(conn: Connection) -> None:
            found = _get(conn, scope.namespace, name)
            if digest and found.target.digest != digest:
                raise NotFound(
                    f"image {quoted(name)} has target {found.target.digest}, not {digest}: not found",
                    resource=f"image {name}",
                )
            conn.execute("DELETE FROM images WHERE namespace = ? AND name = ?", (scope.namespace, name))
            graph.drop(conn, scope.namespace, graph.node(graph.IMAGE, name))
            leases.let_go(conn, scope, "images", name)

        await self._db.write(change)
        await self._emit(scope, "delete", "Delete", {"name": name})
        if sync:
            await self._gc.collect()
        else:
            self._gc.schedule()

    def _note_expiry(self, image: Image) -> None:
        if (expires := graph.expiry(image.labels)) is not None:
            self._gc.wake_at(expires)

    async def _emit(self, scope: Scope, verb: str, message: str, fields: Mapping[str, Any]) -> None:
        # The messages of images live in their service's package, unlike all others.
        message = f"containerd.services.images.v1.Image{message}"
        await self._events.emit(scope, f"/images/{verb}", message, fields)


def _normal(image: Image) -> Image:
    """The image as it is kept, checked."""
    check_name(image.name, "image name")
    check_labels(image.labels, "image.Labels")
    target = image.target
    check_digest(target.digest)
    if target.size <= 0:
        raise InvalidArgument("target.Size must be greater than zero: invalid argument")
    if not target.media_type:
        raise InvalidArgument("target.MediaType must be set: invalid argument")
    annotations = load_labels(dump_labels(target.annotations))
    target = Descriptor(target.media_type, target.digest, target.size, annotations=annotations)
    return dataclasses.replace(image, target=target, labels=load_labels(dump_labels(image.labels)))


def _lease(conn: Connection, scope: Scope, image: Image) -> None:
    # An image that never expires is a root by itself, and needs no lease.
    if graph.EXPIRE_LABEL in image.labels:
        leases.hold(conn, scope, "images", image.name)


def _fields(image: Image) -> dict[str, Any]:
    return {"labels": image.labels, "target": image.target, "annotations": image.target.annotations}


def _row(image: Image) -> dict[str, Any]:
    return {
        "name": image.name,
        "media_type": image.target.media_type,
        "digest": image.target.digest,
        "size": image.target.size,
        "annotations": dump_labels(image.target.annotations),
        "labels": dump_labels(image.labels),
        "created_at": to_micros(image.created_at),
        "updated_at": to_micros(image.updated_at),
    }


def _image(row: tuple[Any, ...]) -> Image:
    name, media_type, digest, size, annotations, labels, created, updated = row
    target = Descriptor(media_type, digest, size, None, load_labels(annotations))
    created_at = from_micros(created)
    updated_at = created_at if updated == created else from_micros(updated)
    return Image(name, target, load_labels(labels), created_at, updated_at)


def _find(conn: Connection, namespace: str, name: str) -> Image | None:
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM images WHERE namespace = ? AND name = ?", (namespace, name)
    ).fetchone()
    return None if row is None else _image(row)


def _get(conn: Connection, namespace: str, name: str) -> Image:
    image = _find(conn, namespace, name)
    if image is None:
        raise NotFound(f"image {quoted(name)}: not found", resource=f"image {name}")
    return image


def _put_graph(conn: Connection, namespace: str, image: Image) -> None:
    owner = graph.node(graph.IMAGE, image.name)
    flat = graph.node(graph.FLAT[graph.IMAGE], image.name)
    edges = [
        (owner, graph.node(graph.CONTENT, image.target.digest)),
        (flat, graph.node(graph.FLAT[graph.CONTENT], image.target.digest)),
        *graph.label_edges(owner, image.labels),
    ]
    graph.put(conn, namespace, owner, edges, root=True, expires=graph.expiry(image.labels))


def _adapt(image: Image) -> Adaptor:
    def field(path: FieldPath) -> str | None:
        match path:
            case ("name", *_):
                return image.name
            case ("target", "digest", *_):
                return image.target.digest
            case ("target", "mediatype", *_):
                return image.target.media_type
            case ("labels", *key):
                return in_map(tuple(key), image.labels)
            case ("annotations", *key):
                return in_map(tuple(key), image.target.annotations)
            case _:
                return None

    return field
