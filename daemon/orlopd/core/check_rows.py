"""The check of the metadata itself: rows that cannot be read, references of what is not there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from . import graph
from .checks import Finding
from .db import Connection, Database, dump_labels

_PAGE = 1000

# The key of each table that has labels, its columns of JSON, the node that is its object, and its name.
_TABLES: Mapping[str, tuple[str, tuple[str, ...], str, str]] = {
    "namespaces": ("name", ("labels",), "''", "namespace"),
    "contents": ("digest", ("labels",), "'c:' || digest", "blob"),
    "snapshots": ("snapshotter || '/' || key", ("labels",), "'s:' || snapshotter || '/' || key", "snapshot"),
    "images": ("name", ("labels", "annotations"), "'i:' || name", "image"),
    "containers": ("id", ("labels", "extensions"), "'k:' || id", "container"),
    "leases": ("id", ("labels",), "'l:' || id", "lease"),
}
_OWNERS: Mapping[str, str] = {
    graph.CONTENT: "contents",
    graph.SNAPSHOT: "snapshots",
    graph.IMAGE: "images",
    graph.CONTAINER: "containers",
    graph.LEASE: "leases",
}


async def check_rows(db: Database, *, repair: bool) -> AsyncIterator[Finding | None]:
    """Findings in the database; None now and then where there is nothing to say."""
    for problem in await db.read(_integrity):
        hint = "restore the database from a backup"
        yield Finding("DATABASE", "", f"database {db.path}", problem, hint=hint)
    for table, (key, columns, node, word) in _TABLES.items():
        for column in columns:
            for namespace, name, its_node in await db.read(
                lambda conn, t=table, k=key, c=column, n=node: list(_damaged(conn, t, k, c, n))
            ):
                repaired = ""
                if repair:
                    await db.write(
                        lambda conn, t=table, k=key, c=column, ns=namespace, i=name, n=its_node: _rewrite(
                            conn, t, k, c, ns, i, n
                        )
                    )
                    repaired = "written anew, with the references that were recorded elsewhere"
                yield Finding(
                    *("ROW_DAMAGED", namespace, f"{word} {name}", f"its {column} cannot be read"),
                    *(repaired, "" if repaired else "mend it with --repair"),
                )
            yield None
    for namespace, node in await db.read(_stale):
        if repair:
            await db.write(lambda conn, ns=namespace, n=node: graph.drop_all(conn, [(ns, n)]))
        yield Finding(
            *("REFERENCE_STALE", namespace, node[2:], "it has references but is not there"),
            *("removed them" if repair else "", "" if repair else "remove them with --repair"),
        )


def _integrity(conn: Connection) -> list[str]:
    found = [str(row[0]) for row in conn.execute("PRAGMA integrity_check(20)")]
    found = [] if found == ["ok"] else found
    found += [
        f"a row of {row[0]} belongs to none of {row[2]}" for row in conn.execute("PRAGMA foreign_key_check")
    ]
    return found


def _damaged(
    conn: Connection, table: str, key: str, column: str, node: str
) -> Iterator[tuple[str, str, str]]:
    namespace = "name" if table == "namespaces" else "namespace"
    # As bytes: text that is no UTF-8 could not even be fetched.
    rows = conn.execute(
        f"SELECT {namespace}, {key}, {node}, CAST({column} AS BLOB) FROM {table} WHERE {column} <> ''"
    )
    for where, name, its_node, data in rows:
        if not _is_sound(data, of_text=column != "extensions"):
            yield where, name, its_node


def _is_sound(data: bytes, *, of_text: bool) -> bool:
    try:
        value: Any = json.loads(data.decode())
    except ValueError:
        return False
    return isinstance(value, dict) and (
        not of_text or all(isinstance(each, str) for each in value.values())  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    )


def _rewrite(
    conn: Connection, table: str, key: str, column: str, namespace: str, name: str, node: str
) -> None:
    """Replace a column by what the reference graph knows of it."""
    labels: dict[str, str] = {}
    if column == "labels" and node:
        rows = conn.execute(
            "SELECT source, target FROM edges WHERE namespace = ? AND owner = ?", (namespace, node)
        ).fetchall()
        for number, (source, target) in enumerate(rows):
            prefix = graph.REF_PREFIX if source == node else graph.BACK_REF_PREFIX
            label = _label(prefix, target if source == node else source, number)
            if label is not None:
                labels[label[0]] = label[1]
        rooted = conn.execute(
            "SELECT expires_at FROM roots WHERE namespace = ? AND node = ?", (namespace, node)
        ).fetchone()
        if rooted is not None and node[:1] in (graph.CONTENT, graph.SNAPSHOT):
            labels[graph.ROOT_LABEL] = "restored"
    where = "name" if table == "namespaces" else "namespace"
    conn.execute(
        f"UPDATE {table} SET {column} = ? WHERE {where} = ? AND {key} = ?",
        (dump_labels(labels), namespace, name),
    )


def _label(prefix: str, node: str, number: int) -> tuple[str, str] | None:
    match node[:1]:
        case graph.CONTENT:
            return f"{prefix}content.restored.{number}", node[2:]
        case graph.SNAPSHOT:
            snapshotter, _, key = node[2:].partition("/")
            return f"{prefix}snapshot.{snapshotter}/restored.{number}", key
        case graph.IMAGE:
            return f"{prefix}image.restored.{number}", node[2:]
        case _:
            return None


def _stale(conn: Connection) -> list[tuple[str, str]]:
    """Owners of references that are not there and that nothing refers to, either."""
    found: list[tuple[str, str]] = []
    for kind, table in _OWNERS.items():
        node = _TABLES[table][2]
        found += conn.execute(
            f"""
            SELECT DISTINCT e.namespace, e.owner FROM edges e
            WHERE substr(e.owner, 1, 2) = '{kind}:'
            AND NOT EXISTS (SELECT 1 FROM {table} o WHERE o.namespace = e.namespace AND {node} = e.owner)
            AND NOT EXISTS (
                SELECT 1 FROM edges x
                WHERE x.namespace = e.namespace AND x.owner <> e.owner AND x.target IN
                    (e.owner, upper(substr(e.owner, 1, 1)) || substr(e.owner, 2))
            )
            AND NOT EXISTS (SELECT 1 FROM roots r WHERE r.namespace = e.namespace AND r.node = e.owner)
            """
        ).fetchall()
    return found
