"""Reading container logs while they are written and rotated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from orlopd.core.logs import LogEntry, LogQuery, parse_line, read_log

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def line(number: int, text: str = "", stream: str = "stdout", tag: str = "F") -> str:
    at = (START + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z"
    return f"{at} {stream} {tag} {text or f'line {number}'}\n"


def json_line(number: int, text: str = "") -> str:
    at = (START + timedelta(seconds=number)).isoformat().replace("+00:00", ".0Z")
    return json.dumps({"log": text or f"line {number}\n", "stream": "stdout", "time": at}) + "\n"


async def read(path: Path, **query: object) -> list[bytes]:
    return [entry.data async for entry in read_log(path, LogQuery(**query))]  # type: ignore[arg-type]


def write(path: Path, text: str | bytes) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def rotate(log: Path) -> None:
    for old in range(8, 0, -1):
        if Path(f"{log}.{old}").exists():
            Path(f"{log}.{old}").rename(f"{log}.{old + 1}")
    log.rename(f"{log}.1")


def numbered(*numbers: int) -> list[bytes]:
    return [f"line {number}\n".encode() for number in numbers]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "output.log"


def test_a_line_says_when_where_and_what() -> None:
    entry = parse_line(b"2026-01-02T03:04:05.123456789+01:00 stderr F oh no: a b ")
    assert entry == LogEntry(datetime(2026, 1, 2, 2, 4, 5, 123456, UTC), 2, b"oh no: a b \n")


def test_a_piece_of_a_line_has_no_line_end() -> None:
    entry = parse_line(b"2026-01-02T03:04:05Z stdout P half")
    assert entry is not None
    assert entry.data == b"half"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b"2026 stdout F x",
        b"2026-01-02T03:04:05Z stdin F x",
        b"2026-01-02T03:04:05Z stdout X x",
        b"2026-99-02T03:04:05Z stdout F x",
        b"\xff\xfe stdout F x",
        b"{",
        b"{}",
        b"{" * 100_000,
        b'{"log": 1, "stream": "stdout", "time": "2026-01-02T03:04:05Z"}',
        b'{"log": "x", "stream": "stdin", "time": "2026-01-02T03:04:05Z"}',
        b'{"log": "x", "stream": ["stdout"], "time": "2026-01-02T03:04:05Z"}',
        b'{"log": "x", "stream": "stdout", "time": 5}',
        b'{"log": "\\ud800", "stream": "stdout", "time": "2026-01-02T03:04:05Z"}',
        b'{"log": "x", "stream": "stdout", "time": "2026-99-02T03:04:05Z"}',
    ],
)
def test_a_malformed_line_is_none(text: bytes) -> None:
    assert parse_line(text) is None


async def test_a_missing_log_is_empty(log: Path) -> None:
    assert await read(log) == []


async def test_all_of_a_log(log: Path) -> None:
    write(log, "".join(map(line, range(2000))))
    assert await read(log) == numbered(*range(2000))


@pytest.mark.parametrize("tail", [0, 1, 2, 999, 2000, 3000])
async def test_the_last_lines(log: Path, tail: int) -> None:
    write(log, "".join(map(line, range(2000))))
    assert await read(log, tail=tail) == numbered(*range(max(2000 - tail, 0), 2000))


async def test_the_last_lines_are_the_containers_however_many_pieces_they_have(log: Path) -> None:
    write(
        log, line(1) + line(2, "a", tag="P") + line(2, "b", tag="P") + line(2, "c") + line(3, "open", tag="P")
    )
    assert await read(log, tail=2) == [b"a", b"b", b"c\n", b"open"]


async def test_the_last_lines_reach_into_rotated_files(log: Path) -> None:
    write(Path(f"{log}.2"), "".join(map(line, range(3))))
    write(Path(f"{log}.1"), "".join(map(line, range(3, 6))))
    write(log, "".join(map(line, range(6, 8))))
    assert await read(log, tail=4) == numbered(4, 5, 6, 7)
    assert await read(log, tail=7) == numbered(*range(1, 8))
    assert await read(log) == numbered(*range(8))


async def test_a_log_of_json_lines_is_read_as_any_other(log: Path) -> None:
    write(Path(f"{log}.1"), line(0) + "".join(json_line(number) for number in range(1, 4)))
    write(
        log,
        json_line(4, "a") + json_line(4, "b") + json_line(4, "c\n") + json_line(5, "open") + '{"log": 1}\n',
    )
    assert await read(log) == [*numbered(0, 1, 2, 3), b"a", b"b", b"c\n", b"open"]
    assert await read(log, tail=3) == [b"line 3\n", b"a", b"b", b"c\n", b"open"]
    since, until = START + timedelta(seconds=2), START + timedelta(seconds=5)
    assert await read(log, since=since, until=until) == [*numbered(2, 3), b"a", b"b", b"c\n"]


async def test_a_span_of_time(log: Path) -> None:
    write(log, "".join(map(line, range(10))))
    since, until = START + timedelta(seconds=3), START + timedelta(seconds=6)
    assert await read(log, since=since, until=until) == numbered(3, 4, 5)


async def test_a_line_beyond_all_bounds_is_dropped_and_not_held(log: Path) -> None:
    write(log, line(1).encode() + b"x" * (5 << 20) + b"\n" + line(2).encode())
    assert await read(log) == numbered(1, 2)


def symlink(log: Path) -> None:
    write(log.with_name("secret"), line(1))
    log.symlink_to(log.with_name("secret"))


@pytest.mark.parametrize("make", [symlink, os.mkfifo, os.mkdir])
async def test_cve_2026_53489_a_log_that_is_something_else_is_not_followed(
    log: Path, make: Callable[[Path], None]
) -> None:
    make(log)
    assert await read(log) == []


async def test_following_gives_what_is_written_until_the_end(log: Path) -> None:
    ended = anyio.Event()
    found: list[bytes] = []

    async def follow() -> None:
        found.extend([entry.data async for entry in read_log(log, ended=ended)])

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        with log.open("a") as file:
            for number in range(5):
                file.write(line(number))
                file.flush()
                await anyio.sleep(0.01)
            whole = line(5)
            file.write(whole[:10])
            file.flush()
            await anyio.sleep(0.05)
            file.write(whole[10:] + line(6, "the end", tag="P"))
        ended.set()
    assert found == [*numbered(*range(6)), b"the end"]


async def test_rotation_while_following_loses_and_repeats_nothing(log: Path) -> None:
    ended = anyio.Event()
    found: list[bytes] = []

    async def follow() -> None:
        found.extend([entry.data async for entry in read_log(log, ended=ended)])

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        for number in range(60):
            with log.open("a") as file:
                file.write(line(number))
            if number % 7 == 6:
                rotate(log)
            await anyio.sleep(0.005)
        ended.set()
    assert found == numbered(*range(60))


async def test_following_ends_at_until(log: Path) -> None:
    write(log, line(0))
    with anyio.fail_after(30):
        until = datetime.now(UTC) + timedelta(seconds=0.2)
        found = [entry async for entry in read_log(log, LogQuery(until=until), ended=anyio.Event())]
    assert [entry.data for entry in found] == numbered(0)
