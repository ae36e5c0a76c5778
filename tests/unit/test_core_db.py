"""The metadata database: what it keeps, and what it refuses to open."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
import time
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, current_token

from orlopd.core import schema
from orlopd.core.db import Connection, Database, from_micros, to_micros
from orlopd.plugin.errors import DataLoss, FailedPrecondition, NotFound, OrlopError, ResourceExhausted
from orlopd.plugin.values import now


def add(conn: Connection, name: str = "x") -> None:
    conn.execute("INSERT INTO namespaces (name) VALUES (?)", (name,))


def names(conn: Connection) -> list[str]:
    return [row[0] for row in conn.execute("SELECT name FROM namespaces ORDER BY name")]


async def test_a_change_is_whole_or_not_at_all(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")

    def fail(conn: Connection) -> None:
        add(conn)
        raise NotFound("after all")

    with pytest.raises(NotFound):
        await db.write(fail)
    assert await db.read(names) == []
    await db.write(add)
    await db.aclose()
    db = await Database.open(tmp_path / "db")
    assert await db.read(names) == ["x"]
    await db.aclose()


async def test_readers_do_not_wait_for_the_writer_and_see_one_state(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    release, token = anyio.Event(), current_token()

    def slow(conn: Connection) -> None:
        add(conn)
        anyio.from_thread.run(release.wait, token=token)

    async with anyio.create_task_group() as group:
        group.start_soon(db.write, slow)
        await anyio.sleep(0.05)
        with anyio.fail_after(30):
            assert await db.read(names) == []
        release.set()
    assert await db.read(names) == ["x"]
    with pytest.raises(FailedPrecondition):
        await db.read(add)
    await db.aclose()


async def test_many_at_once_all_happen(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(db.write, lambda conn, number=number: add(conn, f"{number:03}"))
            group.start_soon(db.read, names)
    assert len(await db.read(names)) == 100
    await db.aclose()


async def _held_up(db: Database, group: TaskGroup) -> anyio.Event:
    """Have a change under way that ends when the event is set; all that come meanwhile wait."""
    release, begun, token = anyio.Event(), anyio.Event(), current_token()

    def slow(conn: Connection) -> None:
        add(conn, "first")
        anyio.from_thread.run_sync(begun.set, token=token)
        anyio.from_thread.run(release.wait, token=token)

    group.start_soon(db.write, slow)
    await begun.wait()
    return release


async def test_a_change_that_fails_among_others_fails_alone(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    transactions: list[bool] = []
    failed: list[str] = []

    def change(conn: Connection, name: str, half: bool) -> int:
        transactions.append(conn.in_transaction)
        add(conn, name)
        if half:
            add(conn, f"{name}-again")
            add(conn, name)  # breaks a rule of the database
        return len(name)

    async def write(number: int) -> None:
        name, half = f"n{number:02}", number % 3 == 0
        try:
            assert await db.write(lambda conn: change(conn, name, half)) == 3
        except OrlopError:
            failed.append(name)

    commits: list[str] = []
    assert db._writer is not None
    db._writer.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None)
    async with anyio.create_task_group() as group:
        release = await _held_up(db, group)
        for number in range(30):
            group.start_soon(write, number)
        await anyio.wait_all_tasks_blocked()
        release.set()
    assert sorted(failed) == [f"n{number:02}" for number in range(0, 30, 3)]
    assert await db.read(names) == ["first", *(f"n{number:02}" for number in range(30) if number % 3)]
    assert (len(transactions), len(commits)) == (30, 2)
    await db.aclose()


async def test_a_cancelled_change_has_not_happened_and_holds_up_nobody(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    scopes: list[anyio.CancelScope] = []

    async def write(number: int) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await db.write(lambda conn: add(conn, f"n{number}"))

    async with anyio.create_task_group() as group:
        release = await _held_up(db, group)
        for number in range(6):
            group.start_soon(write, number)
            await anyio.wait_all_tasks_blocked()
        # The first in the queue, who would have taken the others along, one between them, and the last.
        for number in (0, 3, 5):
            scopes[number].cancel()
        await anyio.wait_all_tasks_blocked()
        release.set()
        with anyio.fail_after(20):
            await db.write(lambda conn: add(conn, "later"))
    assert await db.read(names) == ["first", "later", "n1", "n2", "n4"]
    await db.aclose()


async def test_one_that_is_cancelled_when_its_turn_comes_passes_it_on(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    scope = anyio.CancelScope()

    async def first_in_the_queue() -> None:
        with scope:
            await db.write(lambda conn: add(conn, "cancelled"))

    async def under_way() -> None:
        await db.write(lambda conn: add(conn, "first"))
        # In the same turn of the loop in which the next one is told to go on.
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(under_way)
        await checkpoint()
        group.start_soon(first_in_the_queue)
        group.start_soon(db.write, lambda conn: add(conn, "second"))
    with anyio.fail_after(20):
        await db.write(lambda conn: add(conn, "third"))
    found = await db.read(names)
    assert set(found) - {"cancelled"} == {"first", "second", "third"}
    assert scope.cancelled_caught is ("cancelled" not in found)
    await db.aclose()


async def test_a_change_under_way_is_not_cut_off(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    async with anyio.create_task_group() as group:
        release = await _held_up(db, group)
        group.cancel_scope.cancel()
        release.set()
    assert await db.read(names) == ["first"]
    await db.aclose()


async def test_a_change_whose_task_is_cancelled_is_made_before_the_next(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    begun = threading.Event()

    def slow(conn: Connection) -> None:
        begun.set()
        time.sleep(0.1)
        add(conn, "first")

    task = asyncio.create_task(db.write(slow))
    await anyio.to_thread.run_sync(begun.wait)
    task.cancel()
    await db.write(lambda conn: add(conn, "second"))
    assert await db.read(names) == ["first", "second"]
    await asyncio.wait([task])
    await db.aclose()


async def test_only_what_must_outlive_the_machine_waits_for_the_disk(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")

    def synced(conn: Connection) -> bool:
        add(conn, f"{len(names(conn))}")
        return bool(conn.execute("PRAGMA synchronous").fetchone()[0] == 2)

    assert await db.write(synced)
    assert not await db.write(synced, durable=False)
    assert await db.write(synced)
    found: list[bool] = []

    async def note(durable: bool) -> None:
        found.append(await db.write(synced, durable=durable))

    # The first is made at once; the others share a transaction, which is as durable as any of them.
    async with anyio.create_task_group() as group:
        for durable in (False, False, True):
            group.start_soon(note, durable)
    assert found == [False, True, True]
    assert len(await db.read(names)) == 6
    await db.aclose()


async def test_ids_are_never_given_twice(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    given: list[int] = []

    async def take() -> None:
        for _ in range(20):
            given.append(await db.next_id())  # noqa: PERF401

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(take)
    # No close: a crash.
    again = await Database.open(tmp_path / "db")
    given.append(await again.next_id())
    assert (len(set(given)), max(given)) == (401, given[-1])
    await db.aclose()
    await again.aclose()


async def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    await db.write(add)
    for path in (tmp_path / "db", tmp_path / "db-wal", tmp_path / "db-shm"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    await db.aclose()


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    await db.write(lambda conn: conn.execute(f"PRAGMA user_version = {schema.VERSION + 1}"))
    await db.aclose()
    before = (tmp_path / "db").read_bytes()
    with pytest.raises(FailedPrecondition, match=f"schema version {schema.VERSION + 1}") as caught:
        await Database.open(tmp_path / "db")
    assert caught.value.reason == "SCHEMA_TOO_NEW"
    assert (tmp_path / "db").read_bytes() == before


async def test_an_older_schema_is_brought_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = await Database.open(tmp_path / "db")
    await db.write(add)
    await db.aclose()

    def second(conn: sqlite3.Connection) -> None:
        conn.execute("ALTER TABLE namespaces ADD COLUMN note TEXT NOT NULL DEFAULT 'new'")

    def third(conn: sqlite3.Connection) -> None:
        conn.execute("CREATE TABLE half (x)")
        raise sqlite3.OperationalError("no such thing")

    now_at = schema.VERSION
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, second, third))
    monkeypatch.setattr(schema, "VERSION", now_at + 2)
    with pytest.raises(Exception, match="no such thing"):
        await Database.open(tmp_path / "db")
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[: now_at + 1])
    monkeypatch.setattr(schema, "VERSION", now_at + 1)
    db = await Database.open(tmp_path / "db")
    assert await db.read(lambda conn: conn.execute("SELECT name, note FROM namespaces").fetchall()) == [
        ("x", "new")
    ]
    assert (
        await db.read(lambda conn: conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'half'").fetchall())
        == []
    )
    await db.aclose()


async def test_something_else_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(FailedPrecondition, match="not a metadata database"):
        await Database.open(tmp_path / "db")
    (tmp_path / "text").write_text("this is no database at all " * 100)
    with pytest.raises(DataLoss):
        await Database.open(tmp_path / "text")
    with pytest.raises(FailedPrecondition):
        await Database.open(tmp_path / "no" / "folder" / "db")


async def test_damage_is_found_at_the_start_and_nothing_is_made_anew(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    for start in range(0, 2000, 500):
        await db.write(lambda conn, start=start: [add(conn, f"name-{start + n}") for n in range(500)])
    await db.aclose()
    content = bytearray((tmp_path / "db").read_bytes())
    page = len(content) // 4096 // 2 * 4096
    content[page : page + 4096 * 4] = b"\xa5" * (4096 * 4)
    (tmp_path / "db").write_bytes(content)
    with pytest.raises(DataLoss, match="damaged") as caught:
        await Database.open(tmp_path / "db")
    assert "backup" in caught.value.hint
    assert (tmp_path / "db").read_bytes() == content


async def test_a_full_disk_is_told_and_gone_when_there_is_room(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "db")
    pages = await db.read(lambda conn: conn.execute("PRAGMA page_count").fetchone()[0])
    writer = db._writer
    assert writer is not None
    writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ResourceExhausted):
        await db.write(lambda conn: [add(conn, f"name-{number}") for number in range(2000)])
    assert await db.read(names) == []
    writer.execute("PRAGMA max_page_count = 100000")
    await db.write(add)
    assert await db.read(names) == ["x"]
    await db.aclose()


def test_times_survive() -> None:
    at = now()
    assert from_micros(to_micros(at)) == at
