"""The metadata database: what it keeps, and what it refuses to open."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from orlopd.core import schema
from orlopd.core.db import Connection, Database, from_micros, to_micros
from orlopd.plugin.errors import DataLoss, FailedPrecondition, NotFound, ResourceExhausted
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
    release = anyio.Event()

    def slow(conn: Connection) -> None:
        add(conn)
        anyio.from_thread.run(release.wait)

    async with anyio.create_task_group() as group:
        group.start_soon(db.write, slow)
        await anyio.sleep(0.05)
        with anyio.fail_after(5):
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
