"""Logs of databases that have their length before the first change."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from orlopd.plugin.write_ahead import use_log


def opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    use_log(connection, path)
    return connection


def test_changes_do_not_make_the_log_longer(tmp_path: Path) -> None:
    log = tmp_path / "some.db-wal"
    with closing(opened(tmp_path / "some.db")) as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
        before = log.stat().st_size
        for number in range(1000):
            connection.execute("INSERT INTO things VALUES (?)", (f"{number}" * 20,))
        assert log.stat().st_size == before


def test_what_is_in_the_log_survives_a_crash_and_its_lengthening(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "some.db")) as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
        connection.execute("INSERT INTO things VALUES ('kept')")
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for end in ("", "-wal"):
            shutil.copy(tmp_path / f"some.db{end}", crashed / f"some.db{end}")
    whole = (crashed / "some.db-wal").read_bytes()
    (crashed / "some.db-wal").write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        with closing(opened(crashed / "some.db")) as connection:
            assert connection.execute("SELECT name FROM things").fetchall() == [("kept",)]
            connection.execute("DELETE FROM things WHERE name = 'none'")
