"""Containers: the records of what is to run. Whether it runs is the tasks' business."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound
from orlopd.plugin.values import Container, FieldValue, TypedBytes, now

from . import graph
from .db import Connection, Database, dump_labels, from_micros, insert, load_labels, readable, to_micros
from .events import EventBus
from .filters import Adaptor, FieldPath, in_map, parse
from .gc import Collector
from .identifiers import check_identifier, check_labels, check_namespace, quoted
from .masks import select
from .namespaces import ensure
from .scope import Scope

_PAGE = 200
_COLUMNS = (
    "id, image, runtime, runtime_options_type, runtime_options, spec_type, spec, snapshotter, snapshot_key, "
    "sandbox, extensions, labels, created_at, updated_at"
)
_MUTABLE = ("labels", "spec", "extensions", "image", "snapshotkey")


class Containers:
    """Containers of a scope's namespace. Each is a root of garbage collection, and keeps its snapshot."""

    def __init__(self, db: Database, events: EventBus, gc: Collector) -> None:
        self._db = db
        self._events = events
        self._gc = gc

    async def create(self, scope: Scope, container: Container) -> Container:
        """Record a container.

        :raises AlreadyExists: there is one of this id
        :raises InvalidArgument: a field is malformed, or spec or runtime are missing
        """
        check_namespace(scope.namespace)
        at = now()
        container = _normal(dataclasses.replace(container, created_at=at, updated_at=at))

        def change(conn: Connection) -> None:
            ensure(conn, scope.namespace)
            if _find(conn, scope.namespace, container.id) is not None:
                raise AlreadyExists(
                    f"container {quoted(container.id)}: already exists", resource=f"container {container.id}"
                )
            insert(conn, "containers", {"namespace": scope.namespace, **_row(container)})
            _put_graph(conn, scope.namespace, container)

        await self._db.write(change)
        runtime: dict[str, FieldValue] = {"name": container.runtime}
        if container.runtime_options is not None:
            runtime["options"] = container.runtime_options
        fields = {"id": container.id, "image": container.image, "runtime": runtime}
        await self._events.emit(scope, "/containers/create", "containerd.events.ContainerCreate", fields)
        return container

    async def get(self, scope: Scope, id: str) -> Container:
        """A container. :raises NotFound: there is none of this id"""
        return await self._db.read(lambda conn: _get(conn, scope.namespace, id))

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Container]:
        """Containers by id, see :meth:`walk`."""
        return [container async for container in self.walk(scope, filters)]

    async def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[Container]:
        """Containers by id, see :meth:`pages`."""
        async for containers in self.pages(scope, filters):
            for container in containers:
                yield container

    async def pages(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[Sequence[Container]]:
        """Containers by id, some hundred at a time, so that memory stays flat.

        Filters know ``id``, ``image``, ``runtime.name`` and ``labels.KEY``.

        :raises InvalidArgument: a filter is malformed
        """
        wanted = parse(filters)
        after = ""
        while True:

            def page(conn: Connection, after: str = after) -> list[Container]:
                rows = conn.execute(
                    f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? AND id > ? ORDER BY id",
                    (scope.namespace, after),
                )
                return list(islice(readable(_container, rows), _PAGE))

            containers = await self._db.read(page)
            yield [each for each in containers if wanted.match(_adapt(each))] if filters else containers
            if len(containers) < _PAGE:
                return
            after = containers[-1].id

    async def update(self, scope: Scope, container: Container, paths: Sequence[str] = ()) -> Container:
        """Change what ``paths`` name.

        They are ``labels``, ``labels.KEY``, ``spec``, ``extensions``, ``extensions.KEY``, ``image`` and
        ``snapshotkey``. Without paths all of these; snapshotter and runtime must then be as they are.

        :raises NotFound: there is none of this id
        :raises InvalidArgument: a path is another, or what comes out is malformed
        """
        if not container.id:
            raise InvalidArgument("must specify a container id: invalid argument")

        def change(conn: Connection) -> tuple[Container, bool]:
            current = _get(conn, scope.namespace, container.id)
            if not paths:
                if current.snapshotter != container.snapshotter:
                    raise InvalidArgument("container.Snapshotter field is immutable: invalid argument")
                if current.runtime != container.runtime:
                    raise InvalidArgument("container.Runtime.Name field is immutable: invalid argument")
            fields = select(
                f"container {quoted(container.id)}", paths or _MUTABLE, _fields(current), _fields(container)
            )
            snapshot_key = fields.pop("snapshotkey")
            changed = _normal(
                dataclasses.replace(current, **fields, snapshot_key=snapshot_key, updated_at=now())
            )
            row = _row(changed)
            names = ", ".join(f"{name} = ?" for name in row)
            conn.execute(
                f"UPDATE containers SET {names} WHERE namespace = ? AND id = ?",
                (*row.values(), scope.namespace, container.id),
            )
            _put_graph(conn, scope.namespace, changed)
            return changed, current.snapshot_key != changed.snapshot_key

        changed, moved = await self._db.write(change)
        if moved:
            # The snapshot it had before may be garbage now.
            self._gc.schedule()
        fields: dict[str, FieldValue] = {
            "id": changed.id,
            "image": changed.image,
            "labels": changed.labels,
            "snapshot_key": changed.snapshot_key,
        }
        await self._events.emit(scope, "/containers/update", "containerd.events.ContainerUpdate", fields)
        return changed

    async def delete(self, scope: Scope, id: str) -> None:
        """Forget a container. Its snapshot is for the caller or the collector to remove.

        :raises NotFound: there is none of this id
        """

        def change(conn: Connection) -> None:
            _get(conn, scope.namespace, id)
            conn.execute("DELETE FROM containers WHERE namespace = ? AND id = ?", (scope.namespace, id))
            graph.drop(conn, scope.namespace, graph.node(graph.CONTAINER, id))

        await self._db.write(change)
        self._gc.schedule()
        await self._events.emit(scope, "/containers/delete", "containerd.events.ContainerDelete", {"id": id})


def _normal(container: Container) -> Container:
    """The container as it is kept, checked."""
    check_identifier(container.id, "container.ID")
    if "" in container.extensions:
        raise InvalidArgument("container.Extension keys must not be zero-length: invalid argument")
    check_labels(container.labels, "containers.Labels")
    if not container.runtime:
        raise InvalidArgument("container.Runtime.Name must be set: invalid argument")
    if container.spec is None:
        raise InvalidArgument("container.Spec must be set: invalid argument")
    if container.snapshot_key and not container.snapshotter:
        raise InvalidArgument(
            "container.Snapshotter must be set if container.SnapshotKey is set: invalid argument"
        )
    return dataclasses.replace(container, labels=load_labels(dump_labels(container.labels)))


def _fields(container: Container) -> dict[str, Any]:
    return {
        "labels": container.labels,
        "spec": container.spec,
        "extensions": container.extensions,
        "image": container.image,
        "snapshotkey": container.snapshot_key,
    }


def _row(container: Container) -> dict[str, Any]:
    options, spec = container.runtime_options, container.spec
    return {
        "id": container.id,
        "image": container.image,
        "runtime": container.runtime,
        "runtime_options_type": options.type_url if options else "",
        "runtime_options": options.value if options else None,
        "spec_type": spec.type_url if spec else "",
        "spec": spec.value if spec else None,
        "snapshotter": container.snapshotter,
        "snapshot_key": container.snapshot_key,
        "sandbox": container.sandbox,
        "extensions": _dump_extensions(container.extensions),
        "labels": dump_labels(container.labels),
        "created_at": to_micros(container.created_at),
        "updated_at": to_micros(container.updated_at),
    }


def _container(row: tuple[Any, ...]) -> Container:
    name, image, runtime, options_type, options, spec_type, spec, snapshotter, snapshot_key, *rest = row
    sandbox, extensions, labels, created, updated = rest
    return Container(
        name,
        runtime,
        image,
        None if spec is None else TypedBytes(spec_type, spec),
        None if options is None else TypedBytes(options_type, options),
        snapshotter,
        snapshot_key,
        sandbox,
        load_labels(labels),
        _load_extensions(extensions),
        from_micros(created),
        from_micros(updated),
    )


def _dump_extensions(extensions: Mapping[str, TypedBytes]) -> str:
    if not extensions:
        return ""
    return json.dumps(
        {key: [each.type_url, base64.b64encode(each.value).decode()] for key, each in extensions.items()}
    )


def _load_extensions(text: str) -> Mapping[str, TypedBytes]:
    found: dict[str, list[str]] = json.loads(text) if text else {}
    return MappingProxyType(
        {key: TypedBytes(type_url, base64.b64decode(value)) for key, (type_url, value) in found.items()}
    )


def _find(conn: Connection, namespace: str, id: str) -> Container | None:
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? AND id = ?", (namespace, id)
    ).fetchone()
    return None if row is None else _container(row)


def _get(conn: Connection, namespace: str, id: str) -> Container:
    container = _find(conn, namespace, id)
    if container is None:
        raise NotFound(
            f"container {quoted(id)} in namespace {quoted(namespace)}: not found", resource=f"container {id}"
        )
    return container


def _put_graph(conn: Connection, namespace: str, container: Container) -> None:
    owner = graph.node(graph.CONTAINER, container.id)
    edges = list(graph.label_edges(owner, container.labels))
    if container.snapshotter and container.snapshot_key:
        edges.append((owner, graph.snapshot_node(container.snapshotter, container.snapshot_key)))
    graph.put(conn, namespace, owner, edges, root=True)


def _adapt(container: Container) -> Adaptor:
    def field(path: FieldPath) -> str | None:
        match path:
            case ("id", *_):
                return container.id
            case ("runtime", "name", *_):
                return container.runtime
            case ("image", *_):
                return container.image or None
            case ("labels", *key):
                return in_map(tuple(key), container.labels)
            case _:
                return None

    return field
