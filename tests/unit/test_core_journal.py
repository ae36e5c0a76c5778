"""The journal of events: what it tells again, its bounds, and what becomes of it when things go wrong."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from orlopd.core import journal as module
from orlopd.core.event_fields import dump_fields, load_fields
from orlopd.core.events import EventBus
from orlopd.core.journal import Gap, Journal
from orlopd.plugin.errors import DataLoss, FailedPrecondition, ResourceExhausted, Unavailable
from orlopd.plugin.values import Event, TypedBytes, now

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def event(number: int, at: datetime | None = None, **fields: Any) -> Event:
    return Event(at or now(), "testing", f"/t/{number}", "containerd.events.TaskExit", fields)


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncGenerator[tuple[EventBus, Journal]]:
    journal = await Journal.open(path, **options)
    async with anyio.create_task_group() as group:
        await group.start(journal.run)
        yield EventBus(journal=journal), journal
        group.cancel_scope.cancel()
    await journal.aclose()


async def told(bus: EventBus, since: datetime = LONG_AGO, *filters: str) -> list[Event | Gap]:
    with anyio.fail_after(30):
        async with bus.follow(filters, since=since, until=now()) as events:
            return [each async for each in events]


def topics(items: list[Event | Gap]) -> list[str]:
    return [each.topic for each in items if isinstance(each, Event)]


async def test_events_are_told_again_as_they_were(tmp_path: Path) -> None:
    fields = {
        "id": "box",
        "pid": 7,
        "done": True,
        "at": now(),
        "typed": TypedBytes("a.b/c", b"\0\xff"),
        "many": ["x", {"y": 1}],
        "labels": {"$time": "mine", "a": "ü"},
    }
    raw = TypedBytes("some.Message", b"\1\2\3")
    first = event(1, **fields)
    second = Event(now(), "other", "/t/2", "some.Message", {}, raw)
    async with opened(tmp_path / "events.db") as (bus, _):
        await bus.publish(first)
        await bus.publish(second)
        gap, *seen = await told(bus)
        assert isinstance(gap, Gap)
        assert seen == [first, second]
    # The next daemon tells it too.
    async with opened(tmp_path / "events.db") as (bus, _):
        await bus.publish(event(3))
        assert topics(await told(bus)) == ["/t/1", "/t/2", "/t/3"]
        assert topics(await told(bus, LONG_AGO, "namespace==other")) == ["/t/2"]
    assert stat.S_IMODE((tmp_path / "events.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": {"$typed": []}}', '{"a": {"$time": "x"}}'])
def test_damaged_fields_are_none(text: str) -> None:
    assert load_fields(text) == {}
    assert load_fields(dump_fields({"a": "1"})) == {"a": "1"}


async def test_since_and_until_choose(tmp_path: Path) -> None:
    begin = now() - timedelta(hours=1)
    async with opened(tmp_path / "events.db") as (bus, _):
        for number in range(10):
            await bus.publish(event(number, begin + timedelta(minutes=number)))
        since, until = begin + timedelta(minutes=3), begin + timedelta(minutes=6)
        async with bus.follow([], since=since, until=until) as events:
            assert topics([each async for each in events]) == ["/t/3", "/t/4", "/t/5", "/t/6"]


async def test_until_ends_a_stream_of_what_is_to_come(tmp_path: Path) -> None:
    async with (
        opened(tmp_path / "events.db") as (bus, _),
        bus.follow([], until=now() + timedelta(seconds=0.3)) as events,
    ):
        await bus.publish(event(1))
        with anyio.fail_after(30):
            assert topics([each async for each in events]) == ["/t/1"]


async def test_the_past_joins_the_present_without_gap_or_double(tmp_path: Path) -> None:
    async with opened(tmp_path / "events.db") as (bus, _):
        done = anyio.Event()

        async def publish() -> None:
            for number in range(5000):
                await bus.publish(event(number))
                if number % 7 == 0:
                    await anyio.lowlevel.checkpoint()
            done.set()

        async with anyio.create_task_group() as group:
            group.start_soon(publish)
            begin = now()
            for _ in range(8):
                await anyio.sleep(0.005)
                async with bus.follow([], since=begin - timedelta(minutes=1)) as events:
                    seen: list[str] = []
                    with anyio.fail_after(20):
                        async for each in events:
                            if isinstance(each, Event):
                                seen.append(each.topic)
                                if len(seen) == 5000:
                                    break
                assert seen == [f"/t/{number}" for number in range(5000)]
        assert done.is_set()


async def test_it_is_bounded_by_count_and_says_what_it_lost(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with opened(path, most=100) as (bus, journal):
        for number in range(1000):
            await bus.publish(event(number))
            if number % 50 == 0:
                await anyio.sleep(0.002)
        gap, *seen = await told(bus)
        kept = topics(seen)
        assert isinstance(gap, Gap)
        assert gap.until <= now()
        assert 50 <= len(kept) <= 100
        assert kept == [f"/t/{number}" for number in range(1000 - len(kept), 1000)]
        # Whoever asks for less than is there is told of no gap.
        [first, *_] = seen
        assert isinstance(first, Event)
        assert topics(await told(bus, now())) == []
        assert not any(isinstance(each, Gap) for each in await told(bus, now()))
        assert journal.position == 1000


async def test_it_is_bounded_by_bytes(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with opened(path, most_bytes=200_000) as (bus, _):
        for number in range(100):
            await bus.publish(event(number, text="x" * 10_000))
            await anyio.sleep(0.001)
        kept = topics(await told(bus))
        assert 10 <= len(kept) <= 20
        assert kept[-1] == "/t/99"
    assert path.stat().st_size < 2_000_000


async def test_publishing_never_waits_and_a_hole_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING", 100)
    monkeypatch.setattr(module, "_RETRY", 0.01)
    async with opened(tmp_path / "events.db") as (bus, journal):
        real, broken = journal._write, True

        def write(batch: Any) -> None:
            if broken:
                raise sqlite3.OperationalError("disk I/O error")
            real(batch)

        monkeypatch.setattr(journal, "_write", write)
        with anyio.fail_after(9):  # less than a flush takes
            for number in range(300):
                await bus.publish(event(number))
        monkeypatch.setattr(module, "_FLUSH", 0.05)
        with pytest.raises(Unavailable, match="cannot be written"):
            await told(bus)
        monkeypatch.setattr(module, "_FLUSH", 10)
        broken = False
        await anyio.sleep(0.1)
        await bus.publish(event(300))
        before, *seen = await told(bus)
        assert isinstance(before, Gap)
        assert [each.topic if isinstance(each, Event) else "gap" for each in seen] == [
            *(f"/t/{number}" for number in range(100)),
            "gap",
            "/t/300",
        ]


async def test_a_subscriber_that_is_slow_with_the_past_is_cut_off_too(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "events.db")
    async with anyio.create_task_group() as group:
        await group.start(journal.run)
        bus = EventBus(backlog=3, journal=journal)
        await bus.publish(event(0))
        async with bus.follow([], since=now() - timedelta(hours=1)) as events:
            for number in range(1, 6):
                await bus.publish(event(number))
            assert topics([await anext(events) for _ in range(5)]) == ["/t/0", "/t/1", "/t/2", "/t/3"]
            with pytest.raises(ResourceExhausted):
                await anext(events)
        group.cancel_scope.cancel()
    await journal.aclose()


async def test_a_damaged_one_is_put_aside_and_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "events.db"
    path.write_bytes(b"this is no database at all" * 1000)
    async with opened(path) as (bus, _):
        await bus.publish(event(1))
        assert topics(await told(bus)) == ["/t/1"]
    assert (tmp_path / "events.db.damaged").read_bytes().startswith(b"this is no database")
    assert "moved to" in caplog.text


async def test_one_damaged_while_it_is_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with opened(path) as (bus, journal):
        for number in range(2000):
            await bus.publish(event(number, text="x" * 100))
        await told(bus)
        with closing(sqlite3.connect(path)) as conn:
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek(5 * 4096)
            file.write(b"\xa5" * 4096 * 20)
        with pytest.raises(DataLoss, match="journal"):
            async for _ in journal.read(LONG_AGO, journal.position):
                pass


async def test_a_newer_one_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "events.db")) as conn:
        conn.execute("PRAGMA user_version = 99")
    with pytest.raises(FailedPrecondition, match="version 99"):
        await Journal.open(tmp_path / "events.db")


async def test_without_one_the_past_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="no journal"):
        async with EventBus().follow([], since=LONG_AGO):
            pass
