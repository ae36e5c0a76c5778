"""Faults to be planted in a daemon one at a time, each of which the model has to catch.

This module is loaded by the daemon, through a drop-in plugin that the tests write; see :func:`drop_in`.
The product knows nothing of it. A fault is a function that replaces something inside the core.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orlopd.core import (
    content,
    data,
    db,
    gc,
    graph,
    images,
    ingests,
    leases,
    namespaces,
    snapshot_rows,
    snapshotter,
    sweep,
)
from orlopd.core.masks import select

ROOT = Path(__file__).parents[2]

Swap = tuple[Any, str, Any]
Fault = Callable[[], Swap]
FAULTS: dict[str, Fault] = {}
"""What each fault puts in whose place."""

RULES: dict[str, Sequence[str]] = {}
"""The machine's rules that are enough to come upon a fault, for who has no time to try all of them."""


def fault(*rules: str) -> Callable[[Fault], Fault]:
    def add(plant: Fault) -> Fault:
        FAULTS[plant.__name__] = plant
        RULES[plant.__name__] = rules
        return plant

    return add


# --- References --------------------------------------------------------------------------------------


def _without_label(prefix: str) -> Swap:
    edges = graph.label_edges

    def label_edges(owner: str, labels: Any) -> Iterator[graph.Edge]:
        return edges(owner, {key: value for key, value in labels.items() if not key.startswith(prefix)})

    return graph, "label_edges", label_edges


@fault("pull")
def a_reference_to_content_is_skipped() -> Swap:
    return _without_label("containerd.io/gc.ref.content")


@fault("pull")
def a_reference_to_a_snapshot_is_skipped() -> Swap:
    return _without_label("containerd.io/gc.ref.snapshot.")


@fault("put", "label", "create_container", "collect")
def back_references_are_ignored() -> Swap:
    return _without_label(graph.BACK_REF_PREFIX)


@fault("pull")
def every_word_that_begins_like_content_is_a_reference() -> Swap:
    target = graph._target

    def loose(kind: str, value: str, *, back: bool) -> str | None:
        return target("content" if kind.startswith("content") else kind, value, back=back)

    return graph, "_target", loose


@fault("pull")
def a_parent_is_not_kept() -> Swap:
    put = snapshot_rows._put_graph

    def put_graph(conn: Any, row: Any) -> None:
        put(conn, row)
        owner = graph.snapshot_node(row.snapshotter, row.key)
        parent = graph.snapshot_node(row.snapshotter, row.parent)
        conn.execute("DELETE FROM edges WHERE owner = ? AND target = ?", (owner, parent))

    return snapshot_rows, "_put_graph", put_graph


@fault("pull", "update_image", "collect")
def a_new_target_is_not_followed() -> Swap:
    put = images._put_graph

    def put_graph(conn: Any, namespace: str, image: Any) -> None:
        known = "SELECT 1 FROM roots WHERE namespace = ? AND node = ?"
        if not conn.execute(known, (namespace, graph.node(graph.IMAGE, image.name))).fetchone():
            put(conn, namespace, image)

    return images, "_put_graph", put_graph


# --- Roots -------------------------------------------------------------------------------------------


def _put(change: Callable[[str, dict[str, Any]], None]) -> Swap:
    put = graph.put

    def changed(
        conn: Any, namespace: str, owner: str, edges: Iterable[graph.Edge] = (), **options: Any
    ) -> None:
        change(owner[0], options)
        put(conn, namespace, owner, edges, **options)

    return graph, "put", changed


@fault("create_image", "collect")
def an_image_never_expires() -> Swap:
    return _put(lambda kind, options: options.update(expires=None) if kind == graph.IMAGE else None)


@fault("create_lease", "collect")
def a_lease_never_expires() -> Swap:
    return _put(lambda kind, options: options.update(expires=None) if kind == graph.LEASE else None)


@fault("create_lease", "collect")
def a_lease_is_dropped() -> Swap:
    return _put(lambda kind, options: options.update(root=False) if kind == graph.LEASE else None)


@fault("create_container", "add_layer", "collect")
def a_container_keeps_nothing() -> Swap:
    return _put(lambda kind, options: options.update(root=False) if kind == graph.CONTAINER else None)


@fault("put", "label", "collect")
def the_root_label_is_ignored() -> Swap:
    return _put(lambda kind, options: options.update(root=False) if kind == graph.CONTENT else None)


@fault("put", "label", "collect")
def of_the_root_labels_one_is_known() -> Swap:
    def is_root(labels: Any) -> bool:
        return bool(labels.get(graph.ROOT_LABEL))

    return graph, "is_root", is_root


@fault("upload", "collect")
def an_ingest_without_a_lease_goes() -> Swap:
    return _put(lambda kind, options: options.update(root=False) if kind == graph.INGEST else None)


# --- Leases ------------------------------------------------------------------------------------------


@fault("create_lease", "delete_lease", "collect")
def a_flat_lease_holds_the_tree() -> Swap:
    node = leases._node
    return leases, "_node", lambda resource, *, flat: node(resource, flat=False)


@fault("create_lease", "delete_lease", "collect")
def every_lease_is_flat() -> Swap:
    node = leases._node
    return leases, "_node", lambda resource, *, flat: node(resource, flat=True)


@fault("create_lease", "put")
def the_lease_of_the_header_is_ignored() -> Swap:
    return leases, "hold", lambda conn, scope, kind, key: None


@fault("create_lease", "add_resource", "delete_resource", "collect")
def a_lease_lets_nothing_go() -> Swap:
    return leases, "_let_go", lambda conn, namespace, lease, resource: None


@fault("put")
def a_lease_in_the_wrong_is_no_error() -> Swap:
    hold = leases._hold

    def lenient(conn: Any, namespace: str, lease: str, resource: Any) -> None:
        with suppress(leases.NotFound):
            hold(conn, namespace, lease, resource)

    return leases, "_hold", lenient


@fault("pull")
def a_synchronous_delete_does_not_sweep() -> Swap:
    async def collect(self: gc.Collector) -> Any:
        self.schedule()
        return self._last

    return gc.Collector, "collect", collect


# --- Labels ------------------------------------------------------------------------------------------


def _wide(what: str, paths: Sequence[str], current: Any, wanted: Any) -> dict[str, Any]:
    wider = ["labels" if path.startswith("labels.") else path for path in paths]
    return select(what, wider, current, wanted)


@fault("put", "label")
def a_mask_of_content_is_widened() -> Swap:
    return content, "select", _wide


@fault("add_layer", "label_snapshot")
def a_mask_of_a_snapshot_is_widened() -> Swap:
    return snapshotter, "select", _wide


@fault("put")
def a_commit_forgets_the_labels() -> Swap:
    commit = ingests.NamespacedIngest.commit

    async def forgetful(self: Any, size: int = 0, digest: str = "", labels: Any = None) -> Any:
        return await commit(self, size, digest)

    return ingests.NamespacedIngest, "commit", forgetful


@fault("put", "look")
def of_several_filters_one_is_read() -> Swap:
    parse = content.parse
    return content, "parse", lambda filters: parse(filters[:1])


# --- Content -----------------------------------------------------------------------------------------


@fault("upload", "close")
def a_commit_of_the_wrong_size_is_taken() -> Swap:
    commit = ingests.NamespacedIngest.commit

    async def careless(self: Any, size: int = 0, digest: str = "", labels: Any = ()) -> Any:
        return await commit(self, 0, digest, labels)

    return ingests.NamespacedIngest, "commit", careless


@fault("upload", "close")
def a_commit_of_the_wrong_digest_is_taken() -> Swap:
    commit = ingests.NamespacedIngest.commit

    async def careless(self: Any, size: int = 0, digest: str = "", labels: Any = ()) -> Any:
        return await commit(self, size, digest if digest.startswith("sha512:") else "", labels)

    return ingests.NamespacedIngest, "commit", careless


@fault("put", "look")
def the_blobs_of_others_are_seen() -> Swap:
    get = content.blobs.get

    def anyones(conn: Any, namespace: str, digest: str) -> Any:
        row = conn.execute("SELECT namespace FROM contents WHERE digest = ?", (digest,)).fetchone()
        return get(conn, row[0] if row else namespace, digest)

    return content.blobs, "get", anyones


@fault("put")
def a_blob_is_had_by_naming_it() -> Swap:
    return content, "_shareable", lambda conn, digest: True


@fault("pull", "remove", "collect")
def the_bytes_of_others_are_deleted() -> Swap:
    everything = {**data._UNKNOWN, graph.CONTENT_STORE: "SELECT value FROM json_each(?)"}
    return data, "_UNKNOWN", everything


@fault("put", "collect")
def bytes_are_left_behind() -> Swap:
    return sweep, "_DISCARDED", tuple(each for each in sweep._DISCARDED if each[0] != "contents")


@fault("open", "upload", "send")
def what_comes_again_is_appended() -> Swap:
    async def truncate(self: Any, offset: int) -> None:
        return None

    return ingests.NamespacedIngest, "truncate", truncate


# --- Together ---------------------------------------------------------------------------------------


@fault("create_lease", "together")
def a_refused_change_among_several_is_not_undone() -> Swap:
    def attempt(self: Any, writer: Any, change: Any) -> None:
        try:
            change.result = change.fn(writer)
        except BaseException as error:
            change.error = db._translate(self.path, error)

    return db.Database, "_attempt", attempt


# --- Objects -----------------------------------------------------------------------------------------


@fault("pull", "delete_image")
def an_image_is_deleted_whatever_its_target() -> Swap:
    delete = images.Images.delete

    async def hasty(self: Any, scope: Any, name: str, *, sync: bool = False, digest: str = "") -> None:
        await delete(self, scope, name, sync=sync)

    return images.Images, "delete", hasty


@fault("pull", "add_layer", "remove")
def a_parent_can_be_removed() -> Swap:
    return snapshot_rows, "has_children", lambda conn, row: False


@fault("put", "remove")
def a_namespace_goes_with_what_it_holds() -> Swap:
    return namespaces, "_holds", lambda conn, name: []


# --- Planting ----------------------------------------------------------------------------------------


def serve(path: str) -> None:
    """In the daemon: take names of faults from a socket; each is planted in the place of the one before."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()

    def work() -> None:
        undo: Swap | None = None
        while True:
            connection, _ = listener.accept()
            with connection:
                name = connection.recv(200).decode()
                if undo is not None:
                    setattr(*undo)
                    undo = None
                if name in FAULTS:
                    owner, attribute, planted = FAULTS[name]()
                    undo = (owner, attribute, getattr(owner, attribute))
                    setattr(owner, attribute, planted)
                connection.sendall(b"done")

    threading.Thread(target=work, daemon=True).start()


def drop_in(path: Path) -> str:
    """The source of a drop-in plugin that serves at ``path``."""
    return (
        "import sys\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "from tests.model import faults\n"
        f"faults.serve({str(path)!r})\n"
    )


def plant(path: Path, name: str) -> None:
    """In the test: have a fault planted; "" for none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall((name or "none").encode())
        assert connection.recv(10) == b"done"
