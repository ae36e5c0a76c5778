"""The record of what went and why: bounded, written in the same transactions that remove things.

Triggers of the database (see schema.py) record what is deleted by name, and note each reference that goes
until the next collection. What that one then removes went because of such a reference; without one, it went
together with something that referred to it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from .db import Connection, from_micros

MOST = 20_000
"""How many removals are remembered, about."""

DELETED, COLLECTED, EXPIRED = "deleted", "collected", "expired"
"""How a thing went: by name, collected, or collected because its time had come."""
CHANGED = "changed"
"""How a reference went whose owner is there still: it refers to something else, or let go."""

_COLUMNS = "id, node, at, how, cause, cause_how"


@dataclass(frozen=True, slots=True)
class Removed:
    """How an object went.

    ``cause`` is the node that had kept it, "" when nothing had; ``cause_how`` how that stopped to, "" when
    both went in the same collection.
    """

    id: int
    node: str
    at: datetime
    how: str
    cause: str
    cause_how: str


@contextmanager
def collecting(conn: Connection, nodes: Sequence[tuple[str, str]], at: int) -> Generator[None]:
    """Within a change: remember why a collection removes these, by namespace and node, and have it do so.

    To be entered while the graph has them still.

    :param at: when, in microseconds since 1970
    """
    conn.executemany(_COLLECT, [(namespace, node, at) for namespace, node in nodes[-MOST:]])
    conn.execute("UPDATE counters SET value = 1 WHERE name = 'collecting'")
    yield
    conn.execute("UPDATE counters SET value = 0 WHERE name = 'collecting'")
    conn.execute("DELETE FROM lost")
    conn.execute("DELETE FROM removals WHERE id <= (SELECT max(id) FROM removals) - ?", (MOST,))


# What lost its reference because the owner is not there was lost to a deletion.
_COLLECT = """
INSERT INTO removals (namespace, node, at, how, cause, cause_how)
SELECT ?1, ?2, ?3,
    CASE WHEN EXISTS (SELECT 1 FROM roots WHERE namespace = ?1 AND node = ?2)
        THEN 'expired' ELSE 'collected' END,
    coalesce(l.source, lower(substr(e.source, 1, 1)) || substr(e.source, 2), ''),
    CASE
        WHEN l.source IS NULL THEN ''
        WHEN EXISTS (
            SELECT 1 FROM removals r WHERE r.namespace = ?1 AND r.node = l.source AND r.how = 'deleted'
            AND NOT EXISTS (SELECT 1 FROM edges x WHERE x.namespace = ?1 AND x.owner = l.source)
        ) THEN 'deleted'
        ELSE 'changed'
    END
FROM (SELECT 1)
LEFT JOIN lost l ON l.namespace = ?1 AND l.target = ?2 AND l.source <> ?2
LEFT JOIN edges e ON e.namespace = ?1 AND e.target IN (?2, upper(substr(?2, 1, 1)) || substr(?2, 2))
    AND e.source <> ?2
LIMIT 1
"""


def last(conn: Connection) -> int:
    """The number of the latest removal."""
    return int(conn.execute("SELECT coalesce(max(id), 0) FROM removals").fetchone()[0])


def find(conn: Connection, namespace: str, node: str) -> Removed | None:
    """How an object went the last time; None where that is not remembered."""
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM removals WHERE namespace = ? AND node = ? ORDER BY id DESC LIMIT 1",
        (namespace, node),
    ).fetchone()
    return None if row is None else Removed(row[0], row[1], from_micros(row[2]), *row[3:])


def since(conn: Connection, namespace: str, id: int) -> list[Removed]:
    """What went after the removal of that number."""
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM removals WHERE namespace = ? AND id > ? ORDER BY id", (namespace, id)
    )
    return [Removed(row[0], row[1], from_micros(row[2]), *row[3:]) for row in rows]


def story(conn: Connection, namespace: str, node: str, most: int = 20) -> list[Removed]:
    """How an object went, then what had kept it, and so on; empty where it is not remembered."""
    found: list[Removed] = []
    while node and len(found) < most and node not in {each.node for each in found}:
        removed = find(conn, namespace, node)
        if removed is None:
            break
        found.append(removed)
        # What merely changed is there still; an older removal of the same name is another story.
        node = "" if removed.cause_how == CHANGED else removed.cause
    return found
