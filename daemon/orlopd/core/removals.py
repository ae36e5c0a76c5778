"""The record of what went and why: bounded, written in the same transactions that remove things.

Triggers of the database (see schema.py) record what is deleted by name, and note each reference that goes
until the next collection. What that one then removes went because of such a reference; without one, it went
together with something that referred to it.
"""

from __future__ import annotations

from collections.abc import Generator
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
def collecting(conn: Connection, at: int) -> Generator[None]:
    """Within a change: remember why a collection removes what ``temp.going`` has, and have it do so.

    To be entered while the graph has them still.

    :param at: when, in microseconds since 1970
    """
    conn.execute(_COLLECT, (at, MOST))
    conn.execute("UPDATE counters SET value = 1 WHERE name = 'collecting'")
    yield
    conn.execute("UPDATE counters SET value = 0 WHERE name = 'collecting'")
    conn.execute("DELETE FROM lost")
    conn.execute("DELETE FROM removals WHERE id <= (SELECT max(id) FROM removals) - ?", (MOST,))


# What lost its reference because the owner is not there was lost to a deletion. Of too many the images and
# leases are remembered rather than the blobs that went with them.
_COLLECT = """
WITH gone AS (
    SELECT namespace, kind || ':' || key AS node, upper(kind) || ':' || key AS flat FROM temp.going
    ORDER BY kind = 'c' LIMIT ?2
), caused AS (
    SELECT namespace, node,
        (SELECT l.source FROM lost l
            WHERE l.namespace = g.namespace AND l.target = g.node AND l.source <> g.node) AS lost,
        (SELECT lower(substr(e.source, 1, 1)) || substr(e.source, 2) FROM edges e
            WHERE e.namespace = g.namespace AND e.target IN (g.node, g.flat) AND e.source <> g.node
            LIMIT 1) AS source
    FROM gone g
)
INSERT INTO removals (namespace, node, at, how, cause, cause_how)
SELECT namespace, node, ?1,
    CASE WHEN EXISTS (SELECT 1 FROM roots r WHERE r.namespace = c.namespace AND r.node = c.node)
        THEN 'expired' ELSE 'collected' END,
    coalesce(lost, source, ''),
    CASE
        WHEN lost IS NULL THEN ''
        WHEN EXISTS (
            SELECT 1 FROM removals r WHERE r.namespace = c.namespace AND r.node = lost AND r.how = 'deleted'
            AND NOT EXISTS (SELECT 1 FROM edges x WHERE x.namespace = c.namespace AND x.owner = lost)
        ) THEN 'deleted'
        ELSE 'changed'
    END
FROM caused c
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
