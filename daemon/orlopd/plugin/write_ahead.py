"""SQLite's write-ahead log for databases whose every change is to be on the disk at once.

A log that grows with a change has the filesystem put all its own changes on the disk with it, those of
others too: a directory that somebody made, a tree that somebody unpacks. So the log gets its whole length
beforehand, and a change only overwrites what is there.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

_FRAMES = 256
_PAGE, _FRAME_HEADER = 4096, 24  # https://www.sqlite.org/fileformat2.html#the_write_ahead_log
_LENGTH = (_FRAMES + 64) * (_PAGE + _FRAME_HEADER)


def use_log(connection: sqlite3.Connection, path: Path) -> None:
    """Have the database at ``path`` keep a write-ahead log that each commit waits for.

    :param connection: the one that writes; it has to be open as long as the database is in use
    :raises sqlite3.Error: the database does not work
    """
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_FRAMES}")
    # Nothing but speed is lost where the disk is full. Zeros after its end are no part of the log.
    with contextlib.suppress(OSError):
        _lengthen(path.with_name(path.name + "-wal"))


def _lengthen(log: Path) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size < _LENGTH:
            os.pwrite(fd, bytes(_LENGTH - size), size)
            os.fsync(fd)
    finally:
        os.close(fd)
