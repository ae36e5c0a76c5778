"""Where a shim's own log lies, told with every error of it, and kept when a task comes to nothing.

STATE/failed/NAMESPACE.ID.log   the log of a shim whose container could not be made or started
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import anyio.to_thread

from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound, OrlopError

log = logging.getLogger(__name__)

NAME = "shim.log"
FAILED = "failed"
_KEPT = 32
_GONE = "the shim is gone without a word: it was killed, or it crashed"
_LINE = 1 << 10
_WHERE = "the shim's log is "
_MOST = 1 << 20
# Answers about the request, not about the shim or the runtime.
_PLAIN = (AlreadyExists, InvalidArgument, NotFound)


def pointing(error: OrlopError, path: Path) -> OrlopError:
    """The error with a hint that says where the log is; as it is where it is about the request alone."""
    if isinstance(error, _PLAIN) and error.reason != "RUNTIME_NOT_FOUND":
        return error
    # A place told before may be about to go.
    advice = error.hint.partition(_WHERE)[0].removesuffix("; ")
    where = f"{_WHERE}{path}"
    return type(error)(
        error.message,
        reason=error.reason,
        resource=error.resource,
        hint=f"{advice}; {where}" if advice else where,
    )


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Within the block, errors are told with where the log is."""
    try:
        yield
    except OrlopError as error:
        if error.hint.endswith(str(path)):
            raise
        told = pointing(error, path)
        if told is error:
            raise
        raise told from error


def note_loss(folder: Path, what_became: str) -> None:
    """Have the log of a shim that died say so, once: it had no time to.

    :param what_became: of its container
    """
    path = folder / NAME
    line = f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {_GONE}; {what_became}\n".encode()
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _LINE, 0))
            if _GONE.encode() not in file.read():
                file.write(line)
    except OSError as error:
        log.warning("cannot write to the log of a lost shim, %s: %s", path, error)


async def keep(folder: Path, state: Path, name: str, error: BaseException) -> Path:
    """Keep the log of a shim whose folder is about to go; where."""
    return await anyio.to_thread.run_sync(_keep, folder / NAME, state / FAILED, name, error)


def _keep(source: Path, target: Path, name: str, error: BaseException) -> Path:
    path = target / f"{name}.log"
    try:
        target.mkdir(mode=0o700, exist_ok=True)
        said = b""
        with contextlib.suppress(OSError), source.open("rb") as file:
            said = file.read(_MOST)
        line = f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {type(error).__name__}: {error}\n"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(said + line.encode(errors="replace"))
        kept = sorted(target.glob("*.log"), key=lambda each: each.stat().st_mtime_ns)
        for old in kept[:-_KEPT]:
            old.unlink(missing_ok=True)
    except OSError as failure:
        log.warning("the log of a shim cannot be kept in %s: %s", path, failure)
    return path
