"""Why an object is there, or is not: the references that lead to it, or the record of how it went."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from orlopd.plugin.errors import DataLoss, InvalidArgument, NotFound
from orlopd.plugin.values import now

from . import graph, removals
from .db import Connection, Database, from_micros, load_labels, to_micros
from .identifiers import quoted
from .removals import Removed
from .scope import Scope

MOST_CHAINS = 10
_MOST_VISITED = 20_000
_SHOWN = 5
_HEX = re.compile(r"(?:(sha256|sha512):)?([0-9a-f]{4,128})")

_TABLES: Mapping[str, tuple[str, str]] = {
    graph.CONTENT: ("contents", "digest"),
    graph.SNAPSHOT: ("snapshots", "snapshotter || '/' || key"),
    graph.IMAGE: ("images", "name"),
    graph.CONTAINER: ("containers", "id"),
    graph.LEASE: ("leases", "id"),
    graph.INGEST: ("ingests", "ref"),
}
_WORDS: Mapping[str, str] = {
    graph.CONTENT: "blob",
    graph.SNAPSHOT: "snapshot",
    graph.IMAGE: "image",
    graph.CONTAINER: "container",
    graph.LEASE: "lease",
    graph.INGEST: "ingest",
    graph.SANDBOX: "sandbox",
}
_REASONS: Mapping[str, str] = {
    graph.CONTENT: f"it has the label {graph.ROOT_LABEL}",
    graph.SNAPSHOT: f"it has the label {graph.ROOT_LABEL}",
    graph.IMAGE: "an image is kept until it is deleted",
    graph.CONTAINER: "a container is kept until it is deleted",
    graph.LEASE: "a lease is kept until it is deleted",
    graph.INGEST: "an ingest that no lease holds is kept for a day",
    graph.SANDBOX: "a sandbox is kept until it is deleted",
}


@dataclass(frozen=True, slots=True)
class Link:
    """One object on the way from a root; ``reference`` is how it leads to the next one, "" for the last.

    ``reason`` and ``expires_at`` are the root's: why it is kept for its own sake, and until when.
    """

    node: str
    reference: str = ""
    reason: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say of an object.

    ``chains`` are the ways to it from what keeps it, shortest first, each from the root on; ``removals``
    how it went, then what had kept it.
    """

    node: str
    present: bool
    chains: Sequence[Sequence[Link]] = ()
    more: bool = False
    removals: Sequence[Removed] = ()


def kind_of(node: str) -> str:
    """The letter of a node's kind, see graph.py."""
    return node[:1].lower()


def key_of(node: str) -> str:
    """A node's key."""
    return node[2:]


def describe(node: str) -> str:
    """An object, for people: "image docker.io/library/alpine:latest"."""
    return f"{_WORDS.get(kind_of(node), 'object')} {key_of(node)}"


def reason_of(removed: Removed) -> str:
    """Why an object went, for people."""
    if removed.how == removals.DELETED:
        return "deleted by name"
    verb = "expired" if removed.how == removals.EXPIRED else "collected"
    if removed.how == removals.EXPIRED or not removed.cause:
        return verb if removed.how == removals.EXPIRED else f"{verb}: nothing kept it"
    cause = describe(removed.cause)
    if removed.cause_how == removals.DELETED:
        return f"{verb}: nothing kept it after {cause} was deleted"
    if removed.cause_how == removals.CHANGED:
        return f"{verb}: nothing kept it after {cause} let it go"
    return f"{verb} together with {cause}, which referred to it"


class Explainer:
    """Answers questions about the reference graph."""

    def __init__(self, db: Database, aliases: Mapping[str, str]) -> None:
        """:param aliases: further names of snapshotters, which labels may use"""
        self._db = db
        self._aliases = aliases

    async def why(self, scope: Scope, name: str) -> Explanation:
        """Why the object of that name, digest, key or ref, or of that beginning of it, is there or is not.

        :raises NotFound: there is none, and none is remembered
        :raises InvalidArgument: several fit
        """
        if not name:
            raise InvalidArgument("no object was named: a digest, or the key of a snapshot")

        def query(conn: Connection) -> Explanation:
            node, present = _resolve(conn, scope, name)
            if not present:
                story = removals.story(conn, scope.namespace, node)
                return Explanation(node, False, removals=story)
            chains, more = self.chains(conn, scope.namespace, node)
            return Explanation(node, True, chains, more)

        return await self._db.read(query)

    def chains(
        self, conn: Connection, namespace: str, node: str, most: int = MOST_CHAINS
    ) -> tuple[list[Sequence[Link]], bool]:
        """The shortest way from each root that keeps an object, and whether there are more roots."""
        came: dict[str, str] = {}
        roots = list(islice(self._roots(conn, namespace, node, came), most + 1))
        found = [_chain(conn, namespace, root, came, expires) for root, expires in roots[:most]]
        return found, len(roots) > most

    def keepers(self, conn: Connection, namespace: str, node: str, most: int = MOST_CHAINS) -> Sequence[str]:
        """The roots that keep an object, the nearest first."""
        roots = islice(self._roots(conn, namespace, node, {}), most)
        return [kind_of(root) + root[1:] for root, _ in roots]

    def _roots(
        self, conn: Connection, namespace: str, node: str, came: dict[str, str]
    ) -> Iterator[tuple[str, datetime | None]]:
        """Walk backwards over the edges; ``came`` is told what each node led to when it was first met."""
        at = to_micros(now())
        came.update((each, "") for each in self._names(_both(node)))
        pending = deque(came)
        while pending and len(came) < _MOST_VISITED:
            current = pending.popleft()
            row = conn.execute(
                "SELECT expires_at FROM roots WHERE namespace = ? AND node = ?", (namespace, current)
            ).fetchone()
            if row is not None and (row[0] is None or row[0] >= at):
                yield current, None if row[0] is None else from_micros(row[0])
            sources = conn.execute(
                "SELECT source FROM edges WHERE namespace = ? AND target = ?", (namespace, current)
            )
            for source in self._names(each for (each,) in sources):
                if source not in came:
                    came[source] = current
                    pending.append(source)

    def _names(self, nodes: Iterable[str]) -> Iterable[str]:
        """The nodes, and those of them that are snapshots by their snapshotters' further names, too."""
        for node in nodes:
            yield node
            if kind_of(node) == graph.SNAPSHOT:
                name, _, key = key_of(node).partition("/")
                for alias, meant in self._aliases.items():
                    if meant == name:
                        yield f"{node[:2]}{alias}/{key}"


def _both(node: str) -> Sequence[str]:
    flat = graph.FLAT.get(node[:1], node[:1])
    return (node,) if flat == node[:1] else (node, flat + node[1:])


def _chain(
    conn: Connection, namespace: str, root: str, came: Mapping[str, str], expires: datetime | None
) -> Sequence[Link]:
    links: list[Link] = []
    node = root
    while node:
        following = came[node]
        reference = _reference(conn, namespace, node, following) if following else ""
        reason = _REASONS.get(kind_of(node), "") if node == root else ""
        plain = kind_of(node) + node[1:]
        links.append(Link(plain, reference, reason, expires if node == root else None))
        node = following
    return links


def _reference(conn: Connection, namespace: str, source: str, target: str) -> str:
    """How one object refers to another: a label's key where it is one."""
    kind, key = kind_of(target), key_of(target)
    if kind == graph.SNAPSHOT:
        key = key.partition("/")[2]
    for owner, back in ((source, False), (target, True)):
        prefix = graph.BACK_REF_PREFIX if back else graph.REF_PREFIX
        value = key if not back else key_of(source)
        if back and kind_of(source) == graph.SNAPSHOT:
            value = value.partition("/")[2]
        for label, wanted in sorted(_labels(conn, namespace, owner).items()):
            if wanted == value and label.startswith(prefix):
                return label
    match kind_of(source):
        case graph.LEASE:
            return "holds"
        case graph.IMAGE:
            return "target"
        case graph.CONTAINER:
            return "snapshot" if kind == graph.SNAPSHOT else "uses"
        case graph.SNAPSHOT if kind == graph.SNAPSHOT:
            return "parent"
        case graph.INGEST:
            return "expects"
        case _:
            return "refers to"


def _labels(conn: Connection, namespace: str, node: str) -> Mapping[str, str]:
    table, name = _TABLES.get(kind_of(node), ("", ""))
    if not table or table == "ingests":
        return {}
    row = conn.execute(
        f"SELECT labels FROM {table} WHERE namespace = ? AND {name} = ?", (namespace, key_of(node))
    ).fetchone()
    try:
        return load_labels(row[0]) if row else {}
    except DataLoss:  # a damaged row
        return {}


def _resolve(conn: Connection, scope: Scope, name: str) -> tuple[str, bool]:
    """The node that a name, or the beginning of one, means, and whether it is there."""
    present = _present(conn, scope, name)
    gone = [] if present else _gone(conn, scope, name)
    found = present or gone
    if not found:
        raise NotFound(
            f"namespace {scope.namespace} has no blob, snapshot, image, container, lease or ingest "
            f"{quoted(name)}, and does not remember one",
            reason="OBJECT_NOT_FOUND",
            hint="was it in another namespace? A digest may be shortened, to 4 hexadecimal digits or more",
        )
    if len(found) > 1:
        shown = ", ".join(describe(node) for node in found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        raise InvalidArgument(f"{quoted(name)} may be several things: {shown}", reason="AMBIGUOUS_ID")
    return found[0], bool(present)


def _present(conn: Connection, scope: Scope, name: str) -> list[str]:
    exact: list[str] = []
    begun: list[str] = []
    for kind, (table, column) in _TABLES.items():
        keys = ["key", column] if kind == graph.SNAPSHOT else [column]
        for text in _beginnings(kind, name):
            for key in keys:
                rows = conn.execute(
                    f"SELECT {column}, {key} FROM {table} WHERE namespace = ? AND {key} >= ? AND {key} < ? "
                    f"ORDER BY {key} LIMIT ?",
                    (scope.namespace, text, text + "\U0010ffff", _SHOWN + 1),
                )
                for whole, its_key in rows:
                    (exact if its_key == text else begun).append(graph.node(kind, whole))
    return list(dict.fromkeys(exact or begun))


def _gone(conn: Connection, scope: Scope, name: str) -> list[str]:
    exact: list[str] = []
    begun: list[str] = []
    for kind in _TABLES:
        for text in _beginnings(kind, name):
            start = graph.node(kind, text)
            rows = conn.execute(
                "SELECT DISTINCT node FROM removals WHERE namespace = ? AND node >= ? AND node < ? LIMIT ?",
                (scope.namespace, start, start + "\U0010ffff", _SHOWN + 1),
            )
            for (node,) in rows:
                (exact if node == start else begun).append(node)
    # A snapshot's key without its snapshotter: the record has it by both.
    rows = conn.execute(
        "SELECT DISTINCT node FROM removals WHERE namespace = ? AND node >= 's:' AND node < 's;' "
        "AND substr(node, instr(node, '/') + 1, ?) = ? LIMIT ?",
        (scope.namespace, len(name), name, _SHOWN + 1),
    )
    for (node,) in rows:
        (exact if key_of(node).partition("/")[2] == name else begun).append(node)
    return list(dict.fromkeys(exact or begun))


def _beginnings(kind: str, name: str) -> Sequence[str]:
    """What keys of this kind may begin with where ``name`` is asked for."""
    match = _HEX.fullmatch(name)
    if match is None:
        return () if kind == graph.CONTENT else (name,)
    algorithm, digits = match.groups()
    if kind == graph.SNAPSHOT and not algorithm:
        return name, f"sha256:{digits}"  # the chain id of layers
    if kind != graph.CONTENT:
        return (name,)
    return [f"{each}:{digits}" for each in ([algorithm] if algorithm else ["sha256", "sha512"])]
