"""The check of ingests and snapshots: does each side know what the other has?"""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio

from orlopd.plugin.content import ContentStore
from orlopd.plugin.errors import OrlopError
from orlopd.plugin.snapshots import CheckedSnapshotter, Snapshotter

from . import graph
from .checks import Finding, Totals
from .db import Connection, Database
from .gc import Collector
from .parts import Catalog

_MOMENT = 1.0
"""How long to wait before what looks wrong is looked at again: it may just have been made or removed."""


class IngestCheck:
    """Ingests without bytes, and bytes without an ingest."""

    def __init__(self, db: Database, store: ContentStore) -> None:
        self._db = db
        self._store = store

    async def run(self, repair: bool) -> AsyncIterator[Finding | None]:
        """Findings; None now and then where there is nothing to say."""
        missing, unknown = await self._look()
        yield None
        if not missing and not unknown:
            return
        await anyio.sleep(_MOMENT)
        again, unknown_again = await self._look()
        for namespace, ref, backend_ref in sorted(missing & again):
            if repair:
                await self._db.write(
                    lambda conn, ns=namespace, ref=ref, b=backend_ref: _forget_ingest(conn, ns, ref, b)
                )
            yield Finding(
                *("INGEST_MISSING", namespace, f"ingest {ref}", "it is recorded but not in the store"),
                *_mended("forgotten: its sender begins anew" if repair else ""),
            )
        for backend_ref in sorted(unknown & unknown_again):
            if repair:
                await self._db.write(lambda conn, b=backend_ref: graph.discard(conn, graph.INGEST_STORE, b))
            yield Finding(
                *("INGEST_UNKNOWN", "", f"ingest {backend_ref}", "it is in the store but not recorded"),
                *_mended("left to the next collection" if repair else ""),
            )

    async def _look(self) -> tuple[set[tuple[str, str, str]], set[str]]:
        there = {status.ref async for status in self._store.ingests()}
        # One that shares another namespace's blob has no bytes of its own.
        rows: list[tuple[str, str, str, str]] = await self._db.read(
            lambda conn: conn.execute("SELECT namespace, ref, backend_ref, expected FROM ingests").fetchall()
        )
        noted: set[str] = await self._db.read(lambda conn: _noted(conn, graph.INGEST_STORE))
        missing = {(row[0], row[1], row[2]) for row in rows if row[2] not in there and not row[3]}
        return missing, there - {row[2] for row in rows} - noted


def _forget_ingest(conn: Connection, namespace: str, ref: str, backend_ref: str) -> None:
    gone = conn.execute(
        "DELETE FROM ingests WHERE namespace = ? AND ref = ? AND backend_ref = ?",
        (namespace, ref, backend_ref),
    )
    if gone.rowcount:
        graph.drop(conn, namespace, graph.node(graph.INGEST, ref))


class SnapshotCheck:
    """Snapshots that one side alone has, and what a snapshotter itself finds wrong."""

    def __init__(
        self, db: Database, snapshotters: Catalog[Snapshotter], gc: Collector, totals: Totals
    ) -> None:
        self._db = db
        self._snapshotters = snapshotters
        self._gc = gc
        self._totals = totals

    async def run(self, repair: bool) -> AsyncIterator[Finding | None]:
        """Findings; None now and then where there is nothing to say."""
        counts = await self._db.read(
            lambda conn: conn.execute(
                "SELECT namespace, snapshotter, count(*) FROM snapshots GROUP BY namespace, snapshotter"
            ).fetchall()
        )
        for namespace, name, count in counts:
            if name not in self._snapshotters:
                yield Finding(
                    *("SNAPSHOTTER_MISSING", namespace, f"snapshotter {name}"),
                    f"{count} snapshot(s) are recorded of a snapshotter that this daemon does not have",
                    hint="install or enable its plugin; `orlop plugins` says what became of it",
                )
        for name, snapshotter in self._snapshotters.items():
            try:
                async for item in self._check(name, snapshotter, repair):
                    yield item
            except OrlopError as error:
                message = f"it cannot be checked: {error}"
                yield Finding("STORE_FAILED", "", f"snapshotter {name}", message, hint=error.hint)

    async def _check(
        self, name: str, snapshotter: Snapshotter, repair: bool
    ) -> AsyncIterator[Finding | None]:
        missing, unknown, count = await self._look(name, snapshotter)
        self._totals.snapshots += count
        yield None
        if missing or unknown:
            await anyio.sleep(_MOMENT)
            again, unknown_again, _ = await self._look(name, snapshotter)
            for namespace, key, backend_key in sorted(missing & again):
                repaired = ""
                if repair:
                    repaired = await self._db.write(
                        lambda conn, ns=namespace, k=key, b=backend_key: _forget(conn, ns, name, k, b)
                    )
                hint = "remove the containers and snapshots that use it first" if repair else ""
                yield Finding(
                    *("SNAPSHOT_MISSING", namespace, f"snapshot {name}/{key}"),
                    *("it is recorded but the snapshotter does not have it", *_mended(repaired, hint)),
                )
            for backend_key in sorted(unknown & unknown_again):
                if repair:
                    store = graph.snapshot_store(name)
                    await self._db.write(lambda conn, s=store, b=backend_key: graph.discard(conn, s, b))
                yield Finding(
                    *("SNAPSHOT_UNKNOWN", "", f"snapshot {name}/{backend_key}"),
                    "the snapshotter has it but it is not recorded",
                    *_mended("left to the next collection" if repair else ""),
                )
        if isinstance(snapshotter, CheckedSnapshotter):
            async for item in self._faults(name, snapshotter, repair):
                yield item

    async def _faults(
        self, name: str, snapshotter: CheckedSnapshotter, repair: bool
    ) -> AsyncIterator[Finding | None]:
        faults = await snapshotter.faults()
        leftovers = [fault for fault in faults if not fault.key]
        if leftovers and repair:
            await snapshotter.cleanup()
        left = {fault.path for fault in await snapshotter.faults()} if leftovers and repair else set[str]()
        for fault in faults:
            if fault.key:
                hint = "remove what uses it; an image's layers are unpacked again when it is pulled or run"
                yield Finding(
                    "SNAPSHOT_DAMAGED", "", f"snapshot {name}/{fault.key}", fault.message, hint=hint
                )
            else:
                done = "deleted" if repair and fault.path not in left else ""
                yield Finding("SNAPSHOT_LEFTOVER", "", fault.path, fault.message, *_mended(done))

    async def _look(
        self, name: str, snapshotter: Snapshotter
    ) -> tuple[set[tuple[str, str, str]], set[str], int]:
        there = {info.name async for info in snapshotter.walk()}
        # Asked before the database: what is not being made any more has its row by then.
        making = {key for its_name, key in self._gc.unrecorded if its_name == name}

        def query(conn: Connection) -> tuple[list[tuple[str, str, str]], set[str]]:
            rows = conn.execute(
                "SELECT namespace, key, backend_key FROM snapshots WHERE snapshotter = ?", (name,)
            ).fetchall()
            noted = _noted(conn, graph.snapshot_store(name))
            commits = conn.execute("SELECT backend_name FROM snapshot_commits WHERE snapshotter = ?", (name,))
            return rows, noted | {row[0] for row in commits}

        rows, noted = await self._db.read(query)
        missing = {row for row in rows if row[2] not in there}
        return missing, there - {row[2] for row in rows} - noted - making, len(rows)


def _forget(conn: Connection, namespace: str, snapshotter: str, key: str, backend_key: str) -> str:
    """Forget a snapshot that is not there, unless something is built on it; what was done."""
    child = conn.execute(
        "SELECT 1 FROM snapshots WHERE namespace = ? AND snapshotter = ? AND parent = ?",
        (namespace, snapshotter, key),
    ).fetchone()
    user = conn.execute(
        "SELECT 1 FROM containers WHERE namespace = ? AND snapshotter = ? AND snapshot_key = ?",
        (namespace, snapshotter, key),
    ).fetchone()
    if child or user:
        return ""
    gone = conn.execute(
        "DELETE FROM snapshots WHERE namespace = ? AND snapshotter = ? AND key = ? AND backend_key = ?",
        (namespace, snapshotter, key, backend_key),
    )
    if gone.rowcount:
        graph.drop(conn, namespace, graph.snapshot_node(snapshotter, key))
    return "forgotten, so that it is made anew when it is needed"


def _noted(conn: Connection, store: str) -> set[str]:
    return {row[0] for row in conn.execute("SELECT item FROM garbage WHERE store = ?", (store,))}


def _mended(repaired: str, hint: str = "") -> tuple[str, str]:
    return (repaired, "" if repaired else hint or "mend it with --repair")
